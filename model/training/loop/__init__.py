"""The training loop: forward, loss, backward, step, checkpoint."""
