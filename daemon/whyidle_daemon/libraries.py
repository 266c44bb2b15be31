"""Puts uprobes on the libraries that targets map: engines, and the C library for names.

A uprobe belongs to a file, not to a process: one attachment serves every process that maps the same
inode, now or later; the kernel side counts only those that are tracked. The file is opened through
``/proc/PID/map_files``, so deleted files and other mount namespaces work.

The probes stay on a file as long as an observed process maps it: whoever else does pays for them.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
from collections.abc import Callable, Iterable
from typing import NamedTuple

from whyidle_daemon import cuda
from whyidle_daemon.attaching import Attach, Attaching, close_all
from whyidle_daemon.elf import ElfError, ElfFile
from whyidle_daemon.library_users import Key, LibraryUsers
from whyidle_daemon.proc import Mapping, Proc
from whyidle_daemon.reading_guard import UNGUARDED, Guard

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

MAX_FILES, MAX_FILES_OF_ONE = 512, 16
"""With probes: a dozen descriptors each, and before Linux 6.6 one for each function."""
# What fails for these will do later.
_OURS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR, errno.EAGAIN}


class Attached(NamedTuple):
    """Probes on one file."""

    path: str
    functions: tuple[str, ...]
    descriptors: tuple[int, ...]
    simulated: bool
    file: int | None  # open while there is something to attach again
    limited: dict[str, list[int]]  # by kind, offsets of what a limit may detach
    links: dict[str, list[int]]  # by limit, the descriptors of these


class EngineLibraries:
    """The files that have probes, by device and inode."""

    def __init__(self, attach: Attach, proc: Proc, guard: Guard = UNGUARDED) -> None:
        self._attach = Attaching(attach)
        self._missed = False  # something, while no probe could be attached
        self._proc = proc
        self._guard = guard
        self._files: dict[Key, Attached | None] = {}
        self._users = LibraryUsers(proc)
        self._on = dict.fromkeys(LIMITED.values(), True)
        self.cuda: dict[int, bool] = {}  # processes that map a CUDA library: whether it is a simulated one

    def scan(self, pid: int) -> bool:
        """Attach to what a process maps by now. True when it maps an engine library (new or known)."""
        found = False
        for mapping in self._proc.mappings(pid):
            known = _known(mapping)
            if known is None:
                continue
            key = (mapping.device, mapping.inode)
            if key not in self._files:
                if self._attach.stuck:
                    self._missed = True
                    continue
                if not self._has_room(pid, mapping):
                    continue
                try:
                    self._files[key] = self._look(pid, mapping, known[1])
                except FileNotFoundError:  # the linker has cut the mapping up since: look again
                    continue
                except OSError as error:
                    log.warning("no probes on %r of process %d: %s", mapping.path, pid, error)
                    if error.errno in _OURS:
                        self._missed = self._missed or self._attach.stuck
                        continue
                    self._files[key] = None
            self._users.add(pid, key)
            found = found or known in ENGINES
            attached = self._files[key]
            if known is CUDA and attached is not None:
                self.cuda[pid] = attached.simulated
        return found

    def missed(self) -> bool:
        """Whether something went without probes while none could be attached, and they can be now: once."""
        if not self._missed or self._attach.stuck:
            return False
        self._missed = False
        return True

    def forked(self, parent: int, pid: int) -> None:
        """A process appeared, and maps what its parent did."""
        self._users.forked(parent, pid)

    def replaced(self, pid: int) -> None:
        """The process has another image, of whose libraries the mapping will be announced."""
        self._users.forget(pid)

    def forget(self, pid: int) -> None:
        """The process has ended, or is observed no more."""
        self.cuda.pop(pid, None)
        self._users.forget(pid)

    @property
    def pruning(self) -> bool:
        """It is to be called again soon: it has not looked at everybody yet."""
        return self._users.seeking

    def prune(self, observed: Callable[[], Iterable[int]]) -> None:
        """Detach from files that none of the observed processes maps; so long as it takes, in many calls."""
        descriptors: list[int] = []
        for key in self._users.unused(self._files, observed):
            entry = self._files.pop(key)
            if entry is not None:
                log.info("no more probes on %r: nobody who is observed maps it", entry.path)
                descriptors += _held(entry)
        _close_aside(descriptors)

    def _has_room(self, pid: int, mapping: Mapping) -> bool:
        """A process may map as many files of such a name as it likes."""
        if len(self._files) < MAX_FILES and self._users.count(pid) < MAX_FILES_OF_ONE:
            return True
        log.debug("no probes on %r of process %d: too many such files", mapping.path, pid)
        return False

    @property
    def attached(self) -> list[Attached]:
        return [entry for entry in self._files.values() if entry]

    def close(self) -> None:
        """Detach everything. What cannot be attached cannot be detached either: it goes with the process."""
        if self._attach.stuck:
            return
        for entry in self.attached:
            close_all(_held(entry))
        self._files.clear()
        self._users.clear()

    def has(self, limit: str) -> bool:
        """There is a library with functions under this limit."""
        return any(LIMITED[kind] == limit for entry in self.attached for kind in entry.limited)

    def set_probes(self, limit: str, on: bool) -> None:
        """Put the probes of what is under a limit on, or take them off; everything else stays."""
        if on and not self._on[limit]:
            for entry in self.attached:
                if entry.file is not None:
                    entry.links[limit] = self._attach_limited(entry.file, entry.limited, limit)
        elif not on:
            _close_aside([link for entry in self.attached for link in entry.links.pop(limit, ())])
        self._on[limit] = on

    def _attach_limited(self, file: int, limited: dict[str, list[int]], limit: str) -> list[int]:
        links: list[int] = []
        for kind, offsets in limited.items():
            if LIMITED[kind] == limit:
                with contextlib.suppress(OSError, KeyError):
                    links += self._attach(kind, f"/proc/self/fd/{file}", offsets)
        return links

    def _look(self, pid: int, mapping: Mapping, wanted: Functions) -> Attached | None:
        """Put probes on a mapped file, if it has what is wanted.

        Raises OSError; FileNotFoundError: the mapping is no longer there, or not to be read.
        """
        process = self._guard.admit(pid)
        if process is None:
            raise FileNotFoundError
        self._guard.begin(process)  # it may be on a file system that the process's user serves
        try:
            path = str(self._proc.path(pid, "map_files", f"{mapping.start:x}-{mapping.end:x}"))
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            return self._attach_file(pid, mapping, file, wanted)
        finally:
            self._guard.rest()

    def _attach_file(self, pid: int, mapping: Mapping, file: int, wanted: Functions) -> Attached | None:
        descriptors: list[int] = []
        links: dict[str, list[int]] = {}
        try:
            elf = ElfFile(lambda offset, size: os.pread(file, size, offset))
            functions, places = _find(elf, wanted)
            limited = {kind: offsets for kind, offsets in places.items() if kind in LIMITED}
            for limit in {LIMITED[kind] for kind in limited}:
                if self._on[limit]:  # they are what an engine begins with
                    links[limit] = self._attach_limited(file, limited, limit)
            for kind, offsets in places.items():
                if kind not in limited:
                    # Through the open file: the mapping may move, the inode may lose its name.
                    descriptors += self._attach(kind, f"/proc/self/fd/{file}", offsets)
            simulated = elf.symbol(cuda.SIMULATED) is not None
        except (ElfError, OSError, KeyError) as error:
            close_all([*descriptors, *(link for each in links.values() for link in each), file])
            if isinstance(error, OSError):
                raise
            log.warning("no probes on %r of process %d: %s", mapping.path, pid, error)
            return None
        log.info("probes on %r: %s", mapping.path, ", ".join(functions))
        if not limited:
            close_all([file])
        keep = file if limited else None
        return Attached(mapping.path, functions, tuple(descriptors), simulated, keep, limited, links)


def _known(mapping: Mapping) -> tuple[str, Functions] | None:
    """Which of the libraries a mapped file is, by its name."""
    name = mapping.path.rsplit("/", 1)[-1]
    return next((entry for entry in KNOWN if name.startswith(entry[0])), None)


def _held(entry: Attached) -> list[int]:
    """All descriptors that are kept for a file."""
    links = [link for each in entry.links.values() for link in each]
    return [*links, *entry.descriptors, *([] if entry.file is None else [entry.file])]


def _close_aside(descriptors: list[int]) -> None:
    """The kernel waits for everybody who is in a probe, 0.1 s: not in the daemon's loop."""
    if descriptors:
        try:
            threading.Thread(target=close_all, args=(descriptors,), name="detach").start()
        except RuntimeError:  # there is no room for another: rather late than never
            close_all(descriptors)


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
