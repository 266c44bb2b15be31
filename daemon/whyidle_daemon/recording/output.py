"""The file being written: created as the client's own, and fed by a thread, so that the loop never waits.

A disk that is full, gone or too slow ends the recording and not the observation: what is whole stays
readable, and :attr:`Output.failure` says why there is no more.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from whyidle_daemon.c_library import c_library
from whyidle_daemon.recording.blocks import Flag, block, file_header
from whyidle_daemon.recording.errors import CannotRecord

MAX_QUEUED: Final = 32 << 20
"""Bytes of blocks that wait for the disk."""

_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_CHANGE: Final = 0xFFFFFFFF
_THREAD: Final = "recording"
_DENIED: Final = (errno.EACCES, errno.EPERM, errno.EROFS)


class Owner(NamedTuple):
    """Who the file is for: the user and group of the client."""

    uid: int
    gid: int


NOBODY: Final = Owner(65534, 65534)


def create(path: str, owner: Owner | None = None, mode: int = 0o600) -> int:
    """A new file as a descriptor. Raises :class:`CannotRecord`; never touches what exists.

    ``owner`` both owns it and must be allowed to make it: this process is root, and whoever may talk to it
    must not write where they could not without it. Their supplementary groups do not count.
    """
    if not os.path.isabs(path):  # noqa: PTH117 (a Path would drop what is odd about it)
        raise CannotRecord(path, "the path is not absolute")
    try:
        with _as_user(owner):
            descriptor = os.open(path, _FLAGS, 0o600)
            if mode != 0o600:
                os.fchmod(descriptor, mode)  # whatever the umask
            return descriptor
    except FileExistsError:
        raise CannotRecord(path, "the file exists", exists=True) from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise CannotRecord(path, reason, denied=error.errno in _DENIED) from None
    except ValueError:
        raise CannotRecord(path, "the path holds a null byte") from None


@contextlib.contextmanager
def _as_user(owner: Owner | None) -> Iterator[None]:
    """This thread's file accesses are made as ``owner``; only root can, and for root nothing changes."""
    if owner is None or os.geteuid() != 0 or owner == Owner(0, 0):
        yield
        return
    libc = c_library()
    # Per thread in Linux, unlike seteuid, and dropping to a user drops CAP_DAC_OVERRIDE with it.
    libc.setfsgid(ctypes.c_uint(owner.gid))
    libc.setfsuid(ctypes.c_uint(owner.uid))
    try:
        # They report no errors; asking for the impossible returns what holds now.
        now = libc.setfsuid(ctypes.c_uint(_NO_CHANGE)), libc.setfsgid(ctypes.c_uint(_NO_CHANGE))
        if now != owner:
            raise PermissionError(errno.EPERM, "cannot act as the client's user")
        yield
    finally:
        libc.setfsuid(ctypes.c_uint(0))
        libc.setfsgid(ctypes.c_uint(os.getegid()))


class Output:
    """A new file; compresses and writes blocks to it in a thread of its own."""

    def __init__(
        self,
        path: str,
        owner: Owner | None = None,
        write: Callable[[int, memoryview], int] = os.write,
        max_queued: int = MAX_QUEUED,
        *,
        mode: int = 0o600,
        limit: int | None = None,
    ) -> None:
        """``limit`` is how many bytes it may have before it ends by itself. Raises :class:`CannotRecord`."""
        self.failure: str | None = None
        self.path, self.size = path, 0
        self._owner, self._limit = owner, limit
        self._descriptor = create(path, owner, mode)
        self._write = write
        self._max_queued = max_queued
        self._queue: queue.SimpleQueue[tuple[bytes, int, Flag] | None] = queue.SimpleQueue()
        self._queued = 0
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=_THREAD, daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # the host or the unit has no room for another
            os.close(self._descriptor)
            self._unlink()
            raise CannotRecord(path, str(error)) from None

    def put(self, payload: bytes, records: int, flags: Flag) -> None:
        """Hand over the payload of one block; returns at once."""
        with self._lock:
            if self._queued + len(payload) > self._max_queued:
                self.failure = self.failure or "the disk is too slow"
            if self.failure is not None:
                return
            self._queued += len(payload)
        self._queue.put((payload, records, flags))

    @property
    def closed(self) -> bool:
        """Nothing is written any more."""
        return not self._thread.is_alive()

    def close(self, timeout_s: float) -> None:
        """Write what is queued and close the file; gives up waiting, not writing, after ``timeout_s``."""
        self._queue.put(None)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self.failure = self.failure or f"the disk did not take its end within {timeout_s:g} s"

    def discard(self) -> None:
        """Nothing was recorded after all: remove the file."""
        self.close(0.0)
        self._unlink()

    def _unlink(self) -> None:
        with contextlib.suppress(OSError), _as_user(self._owner):
            os.unlink(self.path)  # noqa: PTH108 (as open)

    def _run(self) -> None:
        done = 0
        try:
            done += self._all(file_header())
            while (item := self._queue.get()) is not None:
                payload, records, flags = item
                done += self._all(block(payload, records, flags))
                self.size = done
                with self._lock:
                    self._queued -= len(payload)
                    if self._limit is not None and done >= self._limit:
                        self.failure = self.failure or f"it has the {self._limit >> 20} MiB that it may have"
        except (OSError, MemoryError) as error:
            with self._lock:
                self.failure = self.failure or getattr(error, "strerror", None) or type(error).__name__
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, done)  # half a block says nothing
        finally:
            os.close(self._descriptor)

    def _all(self, data: bytes) -> int:
        left = memoryview(data)
        while left:
            left = left[self._write(self._descriptor, left) :]
        return len(data)


def wait_for_all(timeout_s: float) -> None:
    """The daemon ends: give all files that are being closed so long together, and leave what the disk has."""
    until = time.monotonic() + timeout_s
    for thread in threading.enumerate():
        if thread.name == _THREAD:
            thread.join(max(0.0, until - time.monotonic()))
