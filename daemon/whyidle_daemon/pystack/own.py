"""Which frame is the user's own code: a pure function of file names.

Told by where a file lies, because the daemon may not see the target's file system: not in a
``lib/python3.X`` or ``pythonXY.zip`` (the standard library) or frozen, not in a ``site-packages`` or
``dist-packages``. An editable install, a zipapp and a project beside its virtual environment are own code; a
console script's wrapper is not.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from enum import Enum

from whyidle_daemon.pystack.walk import Frame

_STDLIB = re.compile(r"(?:^|/)(?:lib(?:32|64)?/python\d\.\d{1,2}[a-z]?/|python\d{2,3}\.zip/)")
_SITE = re.compile(r"(?:^|/)(?:site|dist)-packages/+([^/]+)")
_TYPED = ("<string>", "<stdin>", "<console>", "<input>", "<ipython-input", "<doctest")
_WRAPPER = re.compile(r"(?:^|/)(?:bin|Scripts)/[^/.]+$")
_WRAPPER_LINES = 12  # what pip, uv and setuptools write is shorter


class Origin(Enum):
    """Whose code a file is."""

    OWN = "own"
    SITE = "site"
    STDLIB = "stdlib"


@functools.lru_cache(maxsize=1024)
def origin(file: str) -> Origin:
    """By the name of a code object's file.

    Code that was typed in or passed by ``-c`` or ``exec`` is own. Other names in angle brackets are code that
    a library or the interpreter generated.
    """
    if file.startswith("<"):
        if file.startswith(_TYPED):
            return Origin.OWN
        return Origin.STDLIB if file.startswith("<frozen ") else Origin.SITE
    if _SITE.search(file):
        return Origin.SITE
    return Origin.STDLIB if _STDLIB.search(file) else Origin.OWN


def package(file: str) -> str | None:
    """Top-level package (or module) of an installed file, ``None`` for a file that is not installed.

    ``.../site-packages/httpx/_client.py`` is of ``httpx``. The last folder of that name counts: one
    environment may lie in another.
    """
    found = _SITE.findall(file)
    return found[-1].removesuffix(".py") if found else None


def own_frame(frames: Sequence[Frame]) -> int | None:
    """Index of the innermost frame of the user's own code in a stack, innermost first.

    Without such a frame the application itself is installed: then the innermost frame of the package that the
    outermost installed frame belongs to, which is where the program or the thread was entered. In a stack of
    the standard library alone it is the innermost frame. ``None`` for an empty stack.
    """
    origins = [origin(frame.file) for frame in frames]
    if _is_wrapper(frames, origins):
        origins[-1] = Origin.STDLIB
    if Origin.OWN in origins:
        return origins.index(Origin.OWN)
    installed = [index for index, whose in enumerate(origins) if whose is Origin.SITE]
    if not installed:
        return 0 if frames else None
    packages = {index: package(frames[index].file) for index in installed}
    named = [index for index in installed if packages[index]]
    if not named:
        return installed[0]
    return next(index for index in named if packages[index] == packages[named[-1]])


def _is_wrapper(frames: Sequence[Frame], origins: Sequence[Origin]) -> bool:
    """Is the outermost frame a console script: a few lines in ``bin`` that call an installed function?"""
    if len(frames) < 2 or origins[-2] is not Origin.SITE:
        return False
    last = frames[-1]
    short = last.line is not None and last.line <= _WRAPPER_LINES
    return last.function == "<module>" and short and bool(_WRAPPER.search(last.file))
