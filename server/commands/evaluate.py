"""`routelm evaluate`."""


def evaluate() -> None:
    """Score a model, or a running server, on the tasks it was trained for."""
    raise NotImplementedError
