"""Puts uprobes on the libraries that targets map: engines, and the C library for names.

A uprobe belongs to a file, not to a process: one attachment serves every process that maps the same
inode, now or later; the kernel side counts only those that are tracked. The file is opened through
``/proc/PID/map_files``, so deleted files and other mount namespaces work.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from typing import NamedTuple

from whyidle_daemon.elf import ElfError, ElfFile
from whyidle_daemon.proc import Mapping, Proc

log = logging.getLogger(__name__)

_Wanted = dict[str, tuple[str, ...]]

# Name of the file, and by kind of program the functions. A file counts by how its name begins.
LLAMA: tuple[str, _Wanted] = (
    "libllama",
    {
        "llama": ("llama_decode", "llama_encode"),
        "context": ("llama_init_from_model", "llama_new_context_with_model"),  # its name until January 2025
    },
)
LIBC: tuple[str, _Wanted] = ("libc.so", {"lookup": ("getaddrinfo",)})
MUSL: tuple[str, _Wanted] = ("ld-musl-", {"lookup": ("getaddrinfo",)})
KNOWN = (LLAMA, LIBC, MUSL)

Attach = Callable[[str, str, int], tuple[int, int]]
"""``attach(kind, path, offset)`` returns the descriptors of the entry and the return probe."""


class Attached(NamedTuple):
    """Probes on one file."""

    path: str
    functions: tuple[str, ...]
    descriptors: tuple[int, ...]


class EngineLibraries:
    """The files that have probes, by device and inode."""

    def __init__(self, attach: Attach, proc: Proc) -> None:
        self._attach = attach
        self._proc = proc
        self._files: dict[tuple[tuple[int, int], int], Attached | None] = {}

    def scan(self, pid: int) -> bool:
        """Attach to what a process maps by now. True when it maps an engine library (new or known)."""
        found = False
        for mapping in self._proc.mappings(pid):
            name = mapping.path.rsplit("/", 1)[-1]
            known = next((entry for entry in KNOWN if name.startswith(entry[0])), None)
            if known is None:
                continue
            found = found or known is LLAMA
            key = (mapping.device, mapping.inode)
            if key not in self._files:
                self._files[key] = self._attach_file(pid, mapping, known[1])
        return found

    @property
    def attached(self) -> list[Attached]:
        return [entry for entry in self._files.values() if entry]

    def close(self) -> None:
        """Detach everything."""
        for entry in self.attached:
            for descriptor in entry.descriptors:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        self._files.clear()

    def _attach_file(self, pid: int, mapping: Mapping, wanted: _Wanted) -> Attached | None:
        path = str(self._proc.path(pid, "map_files", f"{mapping.start:x}-{mapping.end:x}"))
        functions: list[str] = []
        descriptors: list[int] = []
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                elf = ElfFile(lambda offset, size: os.pread(file, size, offset))
                for kind, function in ((kind, name) for kind, names in wanted.items() for name in names):
                    address = elf.symbol(function)
                    if address is None:
                        continue
                    # Through the open file: the mapping may move, the inode may lose its name.
                    descriptors += self._attach(kind, f"/proc/self/fd/{file}", elf.file_offset(address))
                    functions.append(function)
            finally:
                os.close(file)
        except (ElfError, OSError, KeyError) as error:
            log.warning("no probes on %r of process %d: %s", mapping.path, pid, error)
            for descriptor in descriptors:
                os.close(descriptor)
            return None
        log.info("probes on %r: %s", mapping.path, ", ".join(functions))
        return Attached(mapping.path, tuple(functions), tuple(descriptors))
