"""The CPythons that this host has."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from whyidle_agent.paths import cache_dir

VERSIONS = ["3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14", "3.15"]
SYSTEM = "/usr/bin/python3"


def find(name: str) -> str | None:
    """Path of an interpreter: pyenv's of that version, else one on the search path or in the cache."""
    if name == SYSTEM:
        return SYSTEM if Path(SYSTEM).exists() else None
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for folder in sorted(root.glob(f"versions/{name}.*"), reverse=True):
        if (folder / "bin" / f"python{name}").exists():
            return str(folder / "bin" / f"python{name}")
    kept = cache_dir() / f"python{name}" / "bin" / f"python{name}"
    return shutil.which(f"python{name}") or (str(kept) if kept.exists() and os.geteuid() == 0 else None)


def need(name: str) -> str:
    """The interpreter, or a skip that says which one is missing."""
    found = find(name)
    if found is None:
        pytest.skip(f"no Python {name} here")
    return found


def headers(name: str) -> Path:
    """Its include folder with the internal headers, or a skip."""
    include = Path(need(name)).resolve().parent.parent / "include" / f"python{name}"
    if not (include / "internal").is_dir():
        pytest.skip(f"no internal headers of Python {name} here")
    return include
