"""How the rest of the server calls the engine."""
