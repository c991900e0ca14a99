"""OpenAI's Responses API: a translation to server/chat and back."""
