"""Compiled programs kept for the next start, in a directory that only root can change.

What is in a file there becomes kernel code, so nothing is taken on trust: every directory on the way, and the
file, must belong to root and be writable by nobody else; the file's name is the digest of everything that the
compiler's output depends on, and its content begins with its own digest. Whatever is wrong, the cache is not
used and the programs are compiled: it can make a start faster and nothing else. The directory is made when
there is something to keep.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import stat
import time
from pathlib import Path
from typing import Any, Iterable, Iterator

_SUFFIX = ".probes"
_KEPT_NAME = re.compile(r"[0-9a-f]{64}\.probes")
_NEW_NAME = re.compile(r"\.[0-9a-f]{64}\.\d+")  # and the process that writes it
_WRITTEN_S = 60.0  # more than that takes
_MAX_BYTES = 4 << 20
_KEPT = 4  # kernels, or sizes of maps, one after another
_BTF = Path("/sys/kernel/btf/vmlinux")


class UnsafeError(Exception):
    """Somebody else could have written there, or nobody can."""


def key_of(sources: Iterable[Path], macros: dict[str, str], functions: Iterable[str], compiler: str) -> str:
    """The name under which the output of this compilation is kept.

    The kernel's type information is all that its headers are made from, and ``platform`` gives the rest.
    """
    digest = hashlib.sha256()
    parts = [compiler, *platform.uname(), *(f"{name}={macros[name]}" for name in sorted(macros)), *functions]
    for part in (
        *(part.encode() for part in parts),
        *(path.read_bytes() for path in sources),
        _BTF.read_bytes(),
    ):
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


def read(directory: str, key: str) -> bytes | None:
    """What is kept under this name; ``None``: nothing. Raises :class:`UnsafeError`."""
    try:
        with _opened(directory) as folder:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
            with os.fdopen(os.open(key + _SUFFIX, flags, dir_fd=folder), "rb") as file:
                about = os.fstat(file.fileno())
                if not stat.S_ISREG(about.st_mode) or about.st_nlink != 1 or about.st_size > _MAX_BYTES:
                    raise UnsafeError(f"{key}{_SUFFIX} is not what was written")
                _check_owner(about, key + _SUFFIX, False)
                with contextlib.suppress(OSError):  # of too many, that used longest ago goes
                    os.utime(file.fileno())
                return file.read(_MAX_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnsafeError(f"{key}{_SUFFIX}: {error.strerror}") from None


def write(directory: str, key: str, data: bytes) -> None:
    """Keep it, and forget the oldest of the others. Raises :class:`UnsafeError`, OSError."""
    with _opened(directory, make=True) as folder:
        name = f".{key}.{os.getpid()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with os.fdopen(os.open(name, flags, 0o600, dir_fd=folder), "wb") as file:
                file.write(data)
            os.rename(name, key + _SUFFIX, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=folder)
            raise
        _prune(folder)


def _prune(folder: int) -> None:
    kept: list[tuple[float, str]] = []
    for name in os.listdir(folder):
        with contextlib.suppress(OSError):
            about = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if _KEPT_NAME.fullmatch(name):
                kept.append((about.st_mtime, name))
            elif _NEW_NAME.fullmatch(name) and time.time() - about.st_mtime > _WRITTEN_S:
                os.unlink(name, dir_fd=folder)  # of one that was killed meanwhile
    for _, name in sorted(kept)[:-_KEPT]:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=folder)


@contextlib.contextmanager
def _opened(directory: str, make: bool = False) -> Iterator[int]:
    """A descriptor of the directory, reached without following a link that somebody could change.

    ``make`` it if only that is not there; else that raises FileNotFoundError.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    parts = Path(directory).parts
    if not parts or parts[0] != "/" or ".." in parts:
        raise UnsafeError(f"{directory} is no absolute path")
    folder = os.open("/", flags)
    try:
        for number, part in enumerate(parts[1:], 1):
            last = number == len(parts) - 1
            try:
                if make and last:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, 0o700, dir_fd=folder)
                inner = os.open(part, flags, dir_fd=folder)
            except OSError as error:
                if last and isinstance(error, FileNotFoundError):
                    raise
                raise UnsafeError(f"{part} in {directory}: {error.strerror}") from None
            os.close(folder)
            folder = inner
            _check_owner(os.fstat(folder), f"{part} in {directory}", not last)
        yield folder
    finally:
        os.close(folder)


def _check_owner(about: Any, what: str, sticky_will_do: bool) -> None:
    """In a sticky directory, such as /tmp, nobody can exchange what belongs to root."""
    others = about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if about.st_uid != 0 or (others and not (sticky_will_do and about.st_mode & stat.S_ISVTX)):
        raise UnsafeError(f"{what} does not belong to root alone")
