"""Ollama's API: a translation to server/chat and back."""
