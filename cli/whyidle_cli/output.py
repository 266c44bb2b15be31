"""Where reports go: text to standard output, JSON to a file or to standard output in its place."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from whyidle_cli.errors import CannotPrint, CannotWrite, UnreadableReport
from whyidle_cli.recording import is_recording
from whyidle_cli.render.report import print_report

STDOUT: Final = Path("-")


def check_target(path: Path | None) -> None:
    """Raise CannotWrite if a report could not be written to ``path``: before the work, not after it."""
    if path is None or path == STDOUT:
        return
    if path.is_dir():
        raise CannotWrite(path, "it is a directory")
    if path.is_file() and is_recording(path):
        raise CannotWrite(path, "it is a recording, which a report never replaces")
    parent = path.resolve().parent
    if not parent.is_dir():
        raise CannotWrite(path, f"there is no directory {parent}")
    if not os.access(path if path.exists() else parent, os.W_OK):
        raise CannotWrite(path, "permission denied")


def deliver(report: dict[str, Any], json_path: Path | None) -> None:
    """Write the JSON, if wanted, then the text unless the JSON took its place.

    Raises CannotWrite (after the text, which is not lost) or UnreadableReport (after the JSON).
    """
    failure: CannotWrite | None = None
    if json_path == STDOUT:
        _to_stdout(lambda: sys.stdout.write(json_text(report)))
        return
    if json_path is not None:
        try:
            write_json(report, json_path)
        except CannotWrite as error:
            failure = error
    try:
        _to_stdout(lambda: print_report(report))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnreadableReport(f"{type(error).__name__}: {error}") from error
    if failure is not None:
        raise failure


def _to_stdout(write: Callable[[], object]) -> None:
    """Write and flush. A reader that has gone (| head) is no error: the exit status is the command's."""
    try:
        write()
        sys.stdout.flush()
    except BrokenPipeError:
        abandon_stdout()
    except OSError as error:
        abandon_stdout()
        raise CannotPrint(error.strerror or str(error)) from None


def abandon_stdout() -> None:
    """Send what is still buffered nowhere, so that Python does not fail on it at exit."""
    with contextlib.suppress(OSError, ValueError):
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, sys.stdout.fileno())
        os.close(devnull)


def json_text(value: Any) -> str:
    """JSON with a final newline. ASCII only, so that it is harmless to a terminal; NaN becomes null."""
    return json.dumps(_finite(value), indent=2, allow_nan=False) + "\n"


def json_line(value: Any) -> str:
    """The same on one line."""
    return json.dumps(_finite(value), allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    """JSON has neither NaN nor bytes."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case bytes():
            return value.decode("utf-8", "replace")
        case dict():
            return {key: _finite(item) for key, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
    return value


def write_json(report: dict[str, Any], path: Path) -> None:
    """Write the report so that ``path`` has it whole or not at all; raises CannotWrite.

    What is not a regular file (``/dev/null``, a pipe) is written to and not replaced.
    """
    target = path.resolve()
    text = json_text(report)
    try:
        if target.exists() and not target.is_file():
            target.write_text(text)
            return
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(descriptor, "w") as file:
                mode = target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask()
                os.fchmod(file.fileno(), mode)
                file.write(text)
            Path(temporary).replace(target)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                Path(temporary).unlink()
            raise
    except OSError as error:
        raise CannotWrite(path, error.strerror or str(error)) from None


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
