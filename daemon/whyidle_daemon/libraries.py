"""Puts uprobes on the libraries that targets map: engines, and the C library for names.

A uprobe belongs to a file, not to a process: one attachment serves every process that maps the same
inode, now or later; the kernel side counts only those that are tracked. The file is opened through
``/proc/PID/map_files``, so deleted files and other mount namespaces work.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from whyidle_daemon import cuda
from whyidle_daemon.elf import ElfError, ElfFile
from whyidle_daemon.proc import Mapping, Proc

log = logging.getLogger(__name__)

# Name of the file, and by kind of program the functions. A file counts by how its name begins.
Functions = dict[str, tuple[str, ...]]  # by kind of program
LLAMA: tuple[str, Functions] = (
    "libllama",
    {
        "llama": ("llama_decode", "llama_encode"),
        "context": ("llama_init_from_model", "llama_new_context_with_model"),  # its name until January 2025
    },
)
CUDA = ("libcuda.so", cuda.FUNCTIONS)
LIBC: tuple[str, Functions] = ("libc.so", {"lookup": ("getaddrinfo",)})
MUSL: tuple[str, Functions] = ("ld-musl-", {"lookup": ("getaddrinfo",)})
KNOWN = (LLAMA, CUDA, LIBC, MUSL)
ENGINES = (LLAMA, CUDA)
LIMITED = {
    "launch": "launch",
    "copy": "launch",
    "current": "launch",
    "pushed": "launch",
    "popped": "launch",
    "llama": "decode",
}
"""By kind of function, which limit it is under: their rate has no bound."""

Attach = Callable[[str, str, Sequence[int]], tuple[int, ...]]
"""``attach(kind, path, offsets)`` returns the descriptors of the probes, which last as long as these."""


class Attached(NamedTuple):
    """Probes on one file."""

    path: str
    functions: tuple[str, ...]
    descriptors: tuple[int, ...]
    simulated: bool = False
    file: int | None = None  # open while there is something to attach again
    limited: dict[str, list[int]] | None = None  # by kind, offsets of what a limit may detach


class EngineLibraries:
    """The files that have probes, by device and inode."""

    def __init__(self, attach: Attach, proc: Proc) -> None:
        self._attach = attach
        self._proc = proc
        self._files: dict[tuple[tuple[int, int], int], Attached | None] = {}
        self._links: dict[str, list[int]] = {limit: [] for limit in LIMITED.values()}
        self._on = dict.fromkeys(LIMITED.values(), True)
        self.cuda: dict[int, bool] = {}  # processes that map a CUDA library: whether it is a simulated one

    def scan(self, pid: int) -> bool:
        """Attach to what a process maps by now. True when it maps an engine library (new or known)."""
        found = False
        for mapping in self._proc.mappings(pid):
            name = mapping.path.rsplit("/", 1)[-1]
            known = next((entry for entry in KNOWN if name.startswith(entry[0])), None)
            if known is None:
                continue
            key = (mapping.device, mapping.inode)
            if key not in self._files:
                try:
                    file = self._open(pid, mapping)
                except FileNotFoundError:  # the linker has cut the mapping up since: look again
                    continue
                self._files[key] = self._attach_file(pid, mapping, file, known[1])
            found = found or known in ENGINES
            attached = self._files[key]
            if known is CUDA and attached is not None:
                self.cuda[pid] = attached.simulated
        return found

    @property
    def attached(self) -> list[Attached]:
        return [entry for entry in self._files.values() if entry]

    def close(self) -> None:
        """Detach everything."""
        for links in self._links.values():
            _close(links)
            links.clear()
        for entry in self.attached:
            _close([*entry.descriptors, *([] if entry.file is None else [entry.file])])
        self._files.clear()

    def has(self, limit: str) -> bool:
        """There is a library with functions under this limit."""
        return any(LIMITED[kind] == limit for entry in self.attached for kind in entry.limited or ())

    def set_probes(self, limit: str, on: bool) -> None:
        """Put the probes of what is under a limit on, or take them off; everything else stays."""
        if on and not self._on[limit]:
            for entry in self.attached:
                if entry.file is not None and entry.limited:
                    self._attach_limited(entry.file, entry.limited, limit)
        elif not on:
            # The kernel waits for everybody who is in a probe, 0.1 s: not in the daemon's loop.
            links, self._links[limit] = self._links[limit], []
            threading.Thread(target=_close, args=(links,), name="detach").start()
        self._on[limit] = on

    def _attach_limited(self, file: int, limited: dict[str, list[int]], limit: str) -> None:
        for kind, offsets in limited.items():
            if LIMITED[kind] == limit:
                with contextlib.suppress(OSError, KeyError):
                    self._links[limit] += self._attach(kind, f"/proc/self/fd/{file}", offsets)

    def _open(self, pid: int, mapping: Mapping) -> int | None:
        """The mapped file; ``None`` when that is refused. Raises FileNotFoundError: it is no longer there."""
        path = str(self._proc.path(pid, "map_files", f"{mapping.start:x}-{mapping.end:x}"))
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise
        except OSError as error:
            log.warning("no probes on %r of process %d: %s", mapping.path, pid, error)
            return None

    def _attach_file(
        self, pid: int, mapping: Mapping, file: int | None, wanted: Functions
    ) -> Attached | None:
        if file is None:
            return None
        descriptors: list[int] = []
        try:
            elf = ElfFile(lambda offset, size: os.pread(file, size, offset))
            functions, places = _find(elf, wanted)
            limited = {kind: offsets for kind, offsets in places.items() if kind in LIMITED}
            for limit, on in self._on.items():
                if on:  # they are what an engine begins with
                    self._attach_limited(file, limited, limit)
            for kind, offsets in places.items():
                if kind not in limited:
                    # Through the open file: the mapping may move, the inode may lose its name.
                    descriptors += self._attach(kind, f"/proc/self/fd/{file}", offsets)
            simulated = elf.symbol(cuda.SIMULATED) is not None
        except (ElfError, OSError, KeyError) as error:
            log.warning("no probes on %r of process %d: %s", mapping.path, pid, error)
            _close([*descriptors, file])
            return None
        log.info("probes on %r: %s", mapping.path, ", ".join(functions))
        if not limited:
            _close([file])
        keep = file if limited else None
        return Attached(mapping.path, functions, tuple(descriptors), simulated, keep, limited or None)


def _find(elf: ElfFile, wanted: Functions) -> tuple[tuple[str, ...], dict[str, list[int]]]:
    """Which functions there are, and by kind where; a function of two names once."""
    functions: list[str] = []
    places: dict[str, list[int]] = {}
    known: set[int] = set()
    for kind, names in wanted.items():
        for name in names:
            address = elf.symbol(name)
            if address is None:
                continue
            offset = elf.file_offset(address)
            functions.append(name)
            if offset not in known:
                known.add(offset)
                places.setdefault(kind, []).append(offset)
    return tuple(functions), places


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
