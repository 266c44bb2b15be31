"""The installed version."""

from __future__ import annotations

import importlib.metadata


def version() -> str:
    """The version of the distribution, ``unknown`` when it runs without being installed."""
    try:
        return importlib.metadata.version("whyidle")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
