"""What commands have to say about recordings: may one be written there, and is it whole?"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Final

from whyidle_cli.errors import CannotRecord
from whyidle_cli.sanitize import sanitize

_MAGIC: Final = b"\x89whyidle"  # how every recording begins: FORMAT.md


def is_recording(path: Path) -> bool:
    """Whether a regular file is one, or was one until it was cut off."""
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def check_record(path: Path | None, json: Path | None = None) -> Path | None:
    """The absolute path for the daemon; raises CannotRecord before anything is started.

    ``json`` is where the report goes. The daemon creates the file, and has the last word on whether it may.
    """
    if path is None:
        return None
    if json is not None and os.path.realpath(path) == os.path.realpath(json):
        raise CannotRecord(path, "--json names the same file")
    if os.path.lexists(path):
        # os.path's, as Path's raise, before Python 3.14, where a directory may not be searched.
        raise CannotRecord(path, "it is a directory" if os.path.isdir(path) else "the file exists")  # noqa: PTH112
    target = path.absolute()
    if not os.path.isdir(target.parent):  # noqa: PTH112
        raise CannotRecord(path, f"there is no directory {target.parent}")
    try:
        str(target).encode()
    except UnicodeEncodeError:
        raise CannotRecord(path, "its name is not valid UTF-8") from None
    return target


def warn_incomplete(report: dict[str, Any]) -> None:
    """Say on standard error that a recording ends before the observation did, if it does."""
    recording = report.get("recording")
    if isinstance(recording, dict) and not recording.get("complete", True):
        reason = sanitize(str(recording.get("reason")), 300)
        sys.stderr.write(f"whyidle: the recording is not complete: {reason}\n")
        sys.stderr.write("  it can be reported on up to there\n")
