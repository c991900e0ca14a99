"""Checkpoints on disk and on the hub: files, readers and the rules that turn their tensors into parameters."""
