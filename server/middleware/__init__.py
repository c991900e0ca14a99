"""Middleware around every HTTP request: API key, body limit, request log, drain."""
