"""The model's file that a process maps: its name, its size and what its header says.

Opened through ``/proc/PID/map_files``. A header is long (a large vocabulary is) and the same for each context
that is made, so what was read is kept by file.
"""

from __future__ import annotations

import os
from pathlib import PurePath
from typing import NamedTuple

from whyidle_daemon.gguf import GgufError, Shape, read_shape
from whyidle_daemon.proc import Mapping, Proc
from whyidle_daemon.reading_guard import UNGUARDED, Guard

MAX_FILES = 64
MAX_KEPT = 64


class Model(NamedTuple):
    """What is known of the model; ``doubt`` says why something is not."""

    name: str
    bytes: int | None
    shape: Shape | None
    doubt: str


class ModelFiles:
    """The model files of one target."""

    def __init__(self, proc: Proc, guard: Guard = UNGUARDED) -> None:
        self._proc = proc
        self._guard = guard
        self._read: dict[tuple[int, ...], Shape | str] = {}

    def of(self, pid: int) -> Model:
        """The only model that a process maps."""
        files: dict[tuple[tuple[int, int], int], Mapping] = {}
        for mapping in self._proc.mappings(pid):
            if mapping.path.removesuffix(" (deleted)").endswith(".gguf") and len(files) < MAX_FILES:
                files.setdefault((mapping.device, mapping.inode), mapping)
        if not files:
            return _unknown("the model's file is not mapped")
        process = self._guard.admit(pid)
        if process is None:
            return _unknown("the model's file cannot be opened")
        self._guard.begin(process)  # it may be on a file system that the process's user serves
        try:
            return self._only(pid, list(files.values()))
        finally:
            self._guard.rest()

    def _only(self, pid: int, files: list[Mapping]) -> Model:
        shapes: set[Shape] = set()
        total = 0
        for mapping in files:
            path = self._proc.path(pid, "map_files", f"{mapping.start:x}-{mapping.end:x}")
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            except OSError:
                return _unknown("the model's file cannot be opened")
            try:
                size, found = self._shape(descriptor)
            except OSError:
                return _unknown("the model's file cannot be read")
            finally:
                os.close(descriptor)
            total += size
            if isinstance(found, Shape):
                shapes.add(found)
            elif found:
                return _unknown(f"the model's file is not understood: {found}")
        if len(shapes) != 1:
            return _unknown("the process has several models")
        return Model(PurePath(files[0].path).name[:128], total, shapes.pop(), "")

    def _shape(self, file: int) -> tuple[int, Shape | str]:
        """Its size, and its shape or why there is none; empty for a later part of a split model."""
        status = os.fstat(file)
        key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        found = self._read.get(key)
        if found is None:
            try:
                found = read_shape(lambda offset, size: os.pread(file, size, offset))
            except GgufError as error:
                found = "" if str(error).startswith("no architecture") else str(error)
            if len(self._read) >= MAX_KEPT:
                self._read.clear()
            self._read[key] = found
        return status.st_size, found


def _unknown(doubt: str) -> Model:
    return Model("", None, None, doubt)
