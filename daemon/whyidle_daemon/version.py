"""The installed version."""

from __future__ import annotations

from importlib import metadata


def _version() -> str:
    try:
        return metadata.version("whyidle")
    except metadata.PackageNotFoundError:  # it runs from sources that are not installed
        return ""


VERSION = _version()
