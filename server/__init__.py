"""Tokens out to people: the engine, the bridge to text, and the HTTP interface."""
