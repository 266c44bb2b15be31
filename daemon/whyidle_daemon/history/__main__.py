"""One report over the history, as JSON on standard output: what ``whyidle report --since`` runs.

Prints ``{"error": {"situation", "message", "hint"}}`` and ends with status 1 when there is nothing to report.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from whyidle_daemon.history.merge import merged
from whyidle_daemon.history.store import FOLDER, Part, parts
from whyidle_daemon.recording.errors import RecordingError
from whyidle_daemon.recording.reader import NO_END, report
from whyidle_daemon.replay import answer, limit_memory

WRITTEN_S: Final = 5.0
"""A part that was written to within this time is the present one."""


class NoHistory(RecordingError):  # noqa: N818 (named for the situation)
    """There is no such directory, or this user may not read it."""

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(f"cannot read the history in {folder}: {reason}")
        self.hint = "run as root or in the group whyidle; is the service installed (whyidle install)?"


class TooMuchHistory(RecordingError):  # noqa: N818
    """All that was asked for takes more memory than this process may have."""

    def __init__(self, asked: str) -> None:
        super().__init__(f"what the history has {asked} takes too much memory for one report")
        self.hint = "narrow it: --pid, --unit or --container, or a shorter --since"


class NothingMatches(RecordingError):  # noqa: N818
    """No part of the history is what was asked for."""

    def __init__(self, asked: str, found: int) -> None:
        super().__init__(f"the history has nothing {asked}")
        self.hint = (
            f"{found} recordings are of other processes or older: ask for more time, or see whyidle ps"
            if found
            else "whyidle ps shows what is observed; a recording appears a second after that began"
        )


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns 0 or 1, argparse exits with 2."""
    parser = argparse.ArgumentParser(prog="python -m whyidle_daemon.history", description=__doc__)
    parser.add_argument("--state", type=Path, required=True, help="the daemon's state directory")
    parser.add_argument("--since-s", type=float, required=True, help="seconds before now")
    parser.add_argument("--pid", type=int, help="targets with this process")
    parser.add_argument("--unit", help="targets in this systemd unit; .service may be left off")
    parser.add_argument("--container", help="targets in this container, by the start of its ID")
    options = parser.parse_args(arguments)
    return answer(lambda: look(options, time.time()))


def look(options: argparse.Namespace, now_s: float) -> dict[str, Any]:
    """The report. Raises a RecordingError."""
    folder = options.state / FOLDER
    try:
        if not folder.is_dir():
            raise NoHistory(folder, "there is no such directory")
        files = parts(folder)
    except OSError as error:
        raise NoHistory(folder, error.strerror or str(error)) from None
    recent = [part for part in files if part.written_s >= now_s - options.since_s]
    try:
        whole = _merged(recent, _wanted(options), now_s)
    except MemoryError:
        whole = None
    else:
        if whole is None:
            raise NothingMatches(_asked(options), len(files))
        return whole
    # Not in the handler: what was read is gone only now.
    raise TooMuchHistory(_asked(options))


def _merged(
    files: list[Part], wanted: Callable[[dict[str, Any]], bool], now_s: float
) -> dict[str, Any] | None:
    found = list(_matching(files, wanted, now_s))
    return merged(found) if found else None


def _matching(
    files: list[Part], wanted: Callable[[dict[str, Any]], bool], now_s: float
) -> Iterator[dict[str, Any]]:
    for part in files:
        try:
            found = report(part.path)
        except RecordingError:  # one that has just begun, or was cut off before its first checkpoint
            continue
        if found["recording"]["reason"] == NO_END and part.written_s > now_s - WRITTEN_S:
            found["recording"] = {"complete": True, "reason": None}  # as far as there is anything yet
        if wanted(found):
            yield found


def _wanted(options: argparse.Namespace) -> Callable[[dict[str, Any]], bool]:
    def wanted(found: dict[str, Any]) -> bool:
        target = found["target"]
        if options.pid is not None and all(process["pid"] != options.pid for process in found["processes"]):
            return False
        if options.unit is not None and target["unit"] not in (options.unit, f"{options.unit}.service"):
            return False
        container = target["container"]
        return options.container is None or (
            container is not None and str(container["id"]).startswith(options.container.rpartition(":")[2])
        )

    return wanted


def _asked(options: argparse.Namespace) -> str:
    words = [
        f"{name} {getattr(options, name)}" for name in ("pid", "unit", "container") if getattr(options, name)
    ]
    return f"of {', '.join(words)} in that time" if words else "in that time"


if __name__ == "__main__":
    limit_memory()
    sys.exit(main())
