"""LoRA adapters (arXiv 2106.09685): low-rank changes of frozen matrices, chosen token by token."""
