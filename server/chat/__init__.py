"""Chats with tools and reasoning, without HTTP: every chat API translates to this."""
