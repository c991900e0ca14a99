"""Text on its way into and out of token ids: tokenizer, chat template, prompts, sentences."""
