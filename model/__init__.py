"""Tokens in, logits out; trainable. Knows nothing of serving."""
