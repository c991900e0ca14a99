"""Beam search on ordinary sequences."""
