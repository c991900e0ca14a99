"""Training: text files become batches, batches become a model."""
