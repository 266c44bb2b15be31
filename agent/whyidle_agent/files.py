"""The tool `write_file`, and the folder that it cannot leave.

Two things keep it there. A name is made of plain parts: no `..`, no leading dot, nothing absolute. And every
folder on the way is opened below the one that is held open, by openat2 with RESOLVE_BENEATH and
RESOLVE_NO_SYMLINKS: that the kernel refuses links and ways out holds also against whoever exchanges a folder
while it is looked at. Where there is no openat2 (before Linux 5.6, or a filter that does not know it), each
folder is opened by itself without following a link, which amounts to the same.
"""

import contextlib
import ctypes
import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from whyidle_agent.errors import AgentError
from whyidle_agent.text import one_line
from whyidle_agent.tools import Observation

MAX_FILE_BYTES = 64 << 10
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_NAME = re.compile(rf"{_PART}(?:/{_PART}){{0,3}}", re.ASCII)
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_OPENAT2 = 437  # the same on every architecture
_NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH = 0x02, 0x04, 0x08  # linux/openat2.h


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class WorkFolder:
    """The one folder that `write_file` can write in, held open so that it cannot be exchanged for another."""

    def __init__(self, path: Path) -> None:
        """Open `path`, making it when it is missing; raises AgentError. A symbolic link is refused."""
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise AgentError(
                f"cannot use the work folder {path}: {error.strerror}", "give another with --workdir DIR"
            ) from error

    def close(self) -> None:
        """Let go of the folder."""
        os.close(self._handle)

    def replace(self, name: str, data: bytes) -> None:
        """Make `name` a file holding `data`, whole or not at all, its folders where missing; raises OSError.

        Writes a new file and renames it, so nothing that already has the name (a symbolic link, a hard
        link to a file elsewhere, a FIFO) is ever opened.
        """
        *above, last = name.split("/")
        with self._inside(above) as folder:
            if not _is_replaceable(last, folder):
                raise FileExistsError(errno.EEXIST, "it exists and is not a regular file")
            temporary = f".{secrets.token_hex(8)}.tmp"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            handle = os.open(temporary, flags, 0o644, dir_fd=folder)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                os.rename(temporary, last, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=folder)
                raise

    @contextlib.contextmanager
    def _inside(self, above: list[str]) -> Iterator[int]:
        """Open the folder at the end of `above`, making what is missing of it."""
        folder = os.dup(self._handle)
        try:
            for part in above:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=folder)
                below = open_beneath(part, folder)
                os.close(folder)
                folder = below
            yield folder
        finally:
            os.close(folder)


def open_beneath(part: str, folder: int) -> int:
    """Open the folder `part` in `folder` without leaving it and without following a link; raises OSError."""
    how = _OpenHow(_FOLDER, 0, _BENEATH | _NO_SYMLINKS | _NO_MAGICLINKS)
    handle = _syscall(_OPENAT2, folder, part.encode(), ctypes.byref(how), ctypes.sizeof(how))
    if handle >= 0:
        return int(handle)
    error = ctypes.get_errno()
    # EPERM is what a container's filter says to a system call that it does not know.
    if error not in (errno.ENOSYS, errno.EPERM):
        raise OSError(error, os.strerror(error))
    return os.open(part, _FOLDER, dir_fd=folder)


_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


def _is_replaceable(name: str, folder: int) -> bool:
    """Return whether `name` is free or a regular file."""
    try:
        return stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return True


@contextlib.contextmanager
def work_folder(path: Path) -> Iterator[WorkFolder]:
    """Open the work folder at `path` for the length of a `with` block."""
    folder = WorkFolder(path)
    try:
        yield folder
    finally:
        folder.close()


def write_file(name: str, text: str, folder: WorkFolder) -> Observation:
    """Write `text` to the file `name` below `folder`, at most three folders down; nothing leads outside."""
    shown = one_line(name, 64)
    if not _NAME.fullmatch(name):
        return Observation(f"refused: {shown!r} is not a plain file name", ok=False)
    data = text.encode("utf-8", "replace")
    if len(data) > MAX_FILE_BYTES:
        return Observation(f"refused: more than {MAX_FILE_BYTES} bytes", ok=False)
    try:
        folder.replace(name, data)
    except OSError as error:
        return Observation(f"cannot write {shown!r}: {error.strerror}", ok=False)
    return Observation(f"wrote {len(data)} bytes to {shown}", ok=True)
