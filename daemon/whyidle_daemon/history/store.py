"""The files of the history: named so that their order is their age, and never more than was agreed.

A file is one part of one observation, in the format of any recording. There is no index: what a file is of is
in its first block, so nothing can disagree with it, and a daemon that is killed at any instant leaves at
worst a file whose last seconds are missing.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

from whyidle_daemon.config import History
from whyidle_daemon.history import kept_time
from whyidle_daemon.history.age import Age
from whyidle_daemon.recording.errors import CannotRecord
from whyidle_daemon.recording.output import Output

log = logging.getLogger(__name__)

FOLDER: Final = "recordings"
MODE: Final = 0o640
SHARE_OF_PART: Final = 1 / 32
"""No part takes more than this of the room."""
SHARE_WRITTEN: Final = 1 / 2
"""Nor do all together that are being written and can be cut take more: those that are over must have some."""
SHARE_WHOLE: Final = 1 / 4
"""The same of those that cannot be cut."""
SHARE_FREE: Final = 1 / 20
MOST_FREE: Final = 1 << 30
"""So much of the disk stays free, at most so many bytes: rather than fill it, the history gets smaller."""
LEAST_BYTES: Final = 48 << 10
"""A part takes at least so much of the room: of many small files each costs time, too."""
LOOK_S: Final = 3600.0
FUTURE_S: Final = 3600.0
"""Nothing was written so much later than now."""
_NAME: Final = re.compile(r"^(\d{8})T([01]\d|2[0-3])([0-5]\d)([0-5]\d)Z-(\d+)-(\d+)\.rec$")
_TRIES: Final = 1000


class Part(NamedTuple):
    """A file: begun and last written when (seconds since 1970), of which process, and its bytes on disk."""

    path: Path
    begun_s: float
    written_s: float
    pid: int
    size: int


class _Writing(NamedTuple):
    """``granted``: what one that cannot be cut may grow to."""

    output: Output
    granted: int | None


class Store:
    """The history of one state directory, as its only writer."""

    def __init__(
        self,
        state: Path,
        config: History,
        clock: Callable[[], float] = time.time,
        boot_clock: Callable[[], float] = kept_time.boottime_s,
    ) -> None:
        self._state, self.folder = state, state / FOLDER
        self.config = config
        self._clock, self._boot_clock = clock, boot_clock
        self._writing: list[_Writing] = []
        self._bytes = 0  # on the disk, at most: it is looked at when that is all there may be, and
        self._looked_s, self._looked_with = 0.0, History()  # now and then
        self._failed: str | None = None
        self._unread: str | None = None
        with contextlib.suppress(OSError):  # said when there is something to keep
            self._make_folder()
        self._age = Age(clock(), boot_clock(), self._known_s())

    def _make_folder(self) -> None:
        if not self.folder.is_dir():
            self.folder.mkdir(parents=True)
            self.folder.chmod(0o750)  # whatever the umask

    def _known_s(self) -> float | None:
        """How late it was, at least, when a daemon last said so: or wrote, if it is one that never did."""
        known_s = kept_time.read(self._state)
        if known_s is None:
            with contextlib.suppress(OSError):
                known_s = max((part.written_s for part in _parts(self.folder)), default=None)
        return known_s

    @property
    def max_bytes(self) -> int:
        return self.config.max_megabytes << 20

    @property
    def part_bytes(self) -> int:
        """A part that has grown to this is followed by another; with many of them, each is smaller."""
        return self._part_bytes(0)

    def _part_bytes(self, more: int) -> int:
        """The same, with so many more of them."""
        number = more + sum(one.granted is None for one in self._writing)
        share = min(SHARE_OF_PART, SHARE_WRITTEN / max(1, number))
        return max(LEAST_BYTES, int(self.max_bytes * share))

    def new(self, pid: int, whole: bool = False) -> Output | None:
        """A file for a part of an observation of ``pid``; ``None`` if there cannot be one: that is logged.

        ``whole``: it is not cut when it has grown to ``part_bytes``, but ends there, or sooner among many.
        """
        if not self.config.enabled:
            return None
        self._age.look(self._clock(), self._boot_clock())
        self._settle()
        try:
            self._make_folder()
            output = self._create(pid, self._grant() if whole else None)
        except (CannotRecord, OSError) as error:
            if self._failed is None:
                log.warning("nothing is kept for later: %s", error)
            self._failed = str(error)
            return None
        self._failed = None
        return output

    def _grant(self) -> int:
        """Bytes for one that cannot be cut: a part of what is left, so that no number of them takes all."""
        left = self.max_bytes * SHARE_WHOLE - sum(one.granted or 0 for one in self._writing)
        return max(0, int(min(self.max_bytes * SHARE_OF_PART, left / 4)))

    def _create(self, pid: int, granted: int | None) -> Output:
        if granted is not None and granted < LEAST_BYTES:
            raise CannotRecord(str(self.folder), "others that clients asked for take the room")
        limit = granted if granted is not None else self._part_bytes(1) * 2
        stamp = datetime.fromtimestamp(self._clock(), UTC).strftime("%Y%m%dT%H%M%SZ")
        for number in itertools.count(1):
            path = self.folder / f"{stamp}-{pid}-{number}.rec"
            try:
                output = Output(str(path), mode=MODE, limit=limit)
            except CannotRecord:
                if not path.exists() or number > _TRIES:
                    raise
            else:
                self._writing.append(_Writing(output, granted))
                return output
        raise AssertionError  # count() does not end

    def prune(self) -> None:
        """Remove the oldest until none is too old and all have room. What is being written stays.

        Some more go then, of many, so that not each one that is added has all of them looked at. Raises
        nothing: a folder that cannot be read is said once, and read the next time.
        """
        now = self._clock()
        self._age.look(now, self._boot_clock())
        kept_time.write(self._state, self._age.now_s)
        self._settle()
        writing = sum(_room_of(one.output.size) for one in self._writing)
        due = self._looked_with != self.config or not 0 <= now - self._looked_s < LOOK_S
        free = self._free()
        if due or self._bytes + writing > self.max_bytes or free < 0:
            try:
                self._look(self.max_bytes - writing, free)
            except OSError as error:  # of the disk, or no descriptor is left: perhaps not at the next time
                if self._unread is None:
                    log.warning("what is too old or too much of the history stays: %s", error)
                self._unread = str(error)
                self._looked_s = 0.0
            else:
                self._looked_with, self._looked_s, self._unread = self.config, now, None

    def _free(self) -> int:
        """Bytes that the disk has for more; negative: so many must go."""
        try:
            disk = os.statvfs(self.folder)
        except OSError:
            return self.max_bytes
        keep = min(disk.f_blocks * disk.f_frsize * SHARE_FREE, MOST_FREE)
        return int(disk.f_bavail * disk.f_frsize - keep)

    def _settle(self) -> None:
        """Of what is closed only its size is kept: each has been a thread."""
        closed = [one.output for one in self._writing if one.output.closed]
        self._bytes += sum(_room_of(output.size) for output in closed)
        self._writing = [one for one in self._writing if not one.output.closed]
        if closed and self._age.ahead:  # else it is too old when the clock is right again
            for output in closed:
                with contextlib.suppress(OSError):
                    os.utime(output.path, (self._age.now_s,) * 2, follow_symlinks=False)

    def _look(self, room: int, free: int) -> None:
        too_old = self._age.too_old_s(self.config.max_age_days * 86400)
        future = self._age.now_s + FUTURE_S if self._age.sure else math.inf
        written = {one.output.path for one in self._writing}
        size, oldest = 0, too_old
        for part in _parts(self.folder):  # of which there may be ten thousand: no list, if none has to go
            if str(part.path) not in written:
                size += _room_of(part.size)
                oldest = min(oldest, part.written_s)
                if part.written_s > future:  # when the clock was wrong: it is never too old else
                    with contextlib.suppress(OSError):
                        os.utime(part.path, (self._age.now_s,) * 2, follow_symlinks=False)
        self._bytes = size
        room = min(room, self._bytes + free)
        if self._bytes <= room and oldest >= too_old:
            return
        found = [part for part in parts(self.folder) if str(part.path) not in written]
        spare = len(found) // 64 if self._bytes > room else 0
        for part in found:
            if self._bytes <= room and part.written_s >= too_old:
                if not spare:
                    continue
                spare -= 1
            self._bytes -= _room_of(part.size)
            with contextlib.suppress(OSError):
                part.path.unlink()


def parts(folder: Path) -> list[Part]:
    """The files of a history, the oldest first. Raises OSError if there is none that may be read."""
    return sorted(_parts(folder), key=lambda part: (part.begun_s, part.path.name))


def _parts(folder: Path) -> Iterator[Part]:
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            match = _NAME.match(entry.name)
            if not match:
                continue
            with contextlib.suppress(OSError, ValueError, OverflowError):
                about = entry.stat(follow_symlinks=False)
                if not stat.S_ISREG(about.st_mode):
                    continue
                hours, minutes, seconds, pid = map(int, match.group(2, 3, 4, 5))
                begun = _day(match[1]) + hours * 3600 + minutes * 60 + seconds
                yield Part(Path(entry.path), begun, about.st_mtime, pid, _on_disk(about))


def _room_of(size: int) -> int:
    return max(LEAST_BYTES, size)


def _on_disk(about: os.stat_result) -> int:
    """Bytes."""
    return max(about.st_size, about.st_blocks * 512)


@lru_cache(maxsize=64)
def _day(text: str) -> float:
    """Its begin, in seconds since 1970: parsing one takes longer than all else that is done with a file."""
    return datetime.strptime(text, "%Y%m%d").replace(tzinfo=UTC).timestamp()
