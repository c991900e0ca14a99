"""The bridge between text and the engine's token ids."""
