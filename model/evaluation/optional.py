"""Packages of the optional extra `evaluate`: imported when a score needs them."""

from importlib import import_module
from typing import Any


def import_extra(name: str) -> Any:
    """Import a module of the extra. ImportError that says how to get it where it is not installed."""
    try:
        return import_module(name)
    except ImportError as error:
        package = name.split(".")[0]
        raise ImportError(f"this score needs {package}: install it with pip install 'routelm[evaluate]'") from error
