"""The engine as the rest of the server calls it."""
