"""Where reports go: text to standard output, JSON to a file or to standard output in its place."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import stat
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TextIO

from whyidle_cli.errors import CannotPrint, CannotWrite, UnreadableReport
from whyidle_cli.recording import is_recording
from whyidle_cli.render.report import print_report

STDOUT: Final = Path("-")

# A directory that is not writable, another's file, a file that is mounted by itself.
_KEEPS_ITS_PLACE: Final = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY}


def check_target(path: Path | None) -> None:
    """Raise CannotWrite if a report could not be written to ``path``: before the work, not after it."""
    if path is None or path == STDOUT or _standard_stream(path) is not None:
        return
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise CannotWrite(path, "it is a directory")
        if stat.S_ISREG(mode):
            if is_recording(path):
                raise CannotWrite(path, "it is a recording, which a report never replaces")
            os.close(_open(path))
        elif not os.access(path, os.W_OK):  # opening a pipe may wait for its reader, and end it
            raise CannotWrite(path, "permission denied")
    except FileNotFoundError:
        parent = Path(os.path.realpath(path)).parent
        if not os.path.isdir(parent):  # noqa: PTH112 (Path's raises, before Python 3.14, what is no answer)
            raise CannotWrite(path, f"there is no directory {parent}") from None
        if not os.access(parent, os.W_OK):
            raise CannotWrite(path, "permission denied") from None
    except OSError as error:
        raise CannotWrite(path, error.strerror or str(error)) from None


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
        abandon(sys.stdout)
    except OSError as error:
        abandon(sys.stdout)
        raise CannotPrint(error.strerror or str(error)) from None


def abandon(stream: TextIO) -> None:
    """Send what is still buffered nowhere, so that Python does not fail on it at exit (with status 120)."""
    with contextlib.suppress(OSError, ValueError):
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, stream.fileno())
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

    What is not a regular file (``/dev/null``, a pipe) is written to and not replaced; so is a file whose
    directory allows no other way.
    """
    data = json_text(report).encode()
    try:
        if (stream := _standard_stream(path)) is not None:
            _write(os.dup(stream), data)
        elif not os.path.lexists(path):
            _replace(path, data, None)
        else:
            _write_over(_open(path), data)
    except OSError as error:
        raise CannotWrite(path, error.strerror or str(error)) from None


def _standard_stream(path: Path) -> int | None:
    """Standard output or error where ``path`` is it: whatever that is, what comes after has to follow."""
    try:
        there = path.stat()
    except OSError:
        return None
    for number in (1, 2):
        with contextlib.suppress(OSError):
            if os.path.samestat(there, os.fstat(number)):
                return number
    return None


def _open(path: Path) -> int:
    """Open what is there. Raises OSError, also for what somebody laid out in /tmp.

    It is the kernel that follows a link, since it knows which it should not; of a file or a pipe it looks at
    that only with O_CREAT (``fs.protected_symlinks``, ``fs.protected_regular``).
    """
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOCTTY | os.O_CLOEXEC, 0o666)


def _write_over(descriptor: int, data: bytes) -> None:
    """Put a new file in the place of this one, if it is one and that can be done; else write to it."""
    before = os.fstat(descriptor)
    try:
        if stat.S_ISREG(before.st_mode) and before.st_nlink:
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            if os.path.samestat(path.stat(), before):
                _replace(path, data, before)
                os.close(descriptor)
                return
    except OSError as error:
        if error.errno not in _KEEPS_ITS_PLACE:
            os.close(descriptor)
            raise
    if stat.S_ISREG(before.st_mode):
        os.ftruncate(descriptor, 0)
    _write(descriptor, data)


def _write(descriptor: int, data: bytes) -> None:
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def _replace(path: Path, data: bytes, before: os.stat_result | None) -> None:
    """A new file under this name in one step, with the permissions and the owner of the one before."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".whyidle-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            if before is not None:
                os.fchown(descriptor, before.st_uid, before.st_gid)
            os.fchmod(descriptor, before.st_mode & 0o777 if before is not None else 0o666 & ~_umask())
            file.write(data)
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
