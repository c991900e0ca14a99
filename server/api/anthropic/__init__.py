"""Anthropic's Messages API: a translation to server/chat and back."""
