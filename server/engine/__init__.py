"""Continuous batching over token ids: scheduling, cache memory, sampling. No text and no HTTP."""
