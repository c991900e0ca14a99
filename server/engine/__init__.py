"""Continuous batching over token ids: which tokens are in the next step, and whose memory they use."""
