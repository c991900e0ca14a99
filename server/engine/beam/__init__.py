"""Beam search over ordinary sequences."""
