"""Versions of installed packages, read without importing them."""

from importlib.metadata import PackageNotFoundError, version


def package_version(name: str) -> str:
    """The installed version; "unknown" in a checkout that was not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
