"""What several commands use: shared options, a client of the HTTP API, loading a model, errors in one line."""
