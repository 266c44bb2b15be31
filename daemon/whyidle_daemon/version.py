"""The installed version.

By the name of the folder in which every installer notes it (the core metadata's ``NAME-VERSION.dist-info``):
importlib.metadata reads the same, and costs the daemon 3 MB for as long as it runs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

_BEFORE, _AFTER = "whyidle-", ".dist-info"


def _version() -> str:
    """The first on Python's path; empty where it runs from sources that are not installed."""
    for folder in sys.path:
        for path in sorted(Path(folder).glob(f"{_BEFORE}*{_AFTER}")):
            return path.name[len(_BEFORE) : -len(_AFTER)]
    return ""


VERSION: Final = _version()
