"""What /proc says of a process. The root is injected, so that tests can bring their own.

A process may vanish between two reads: every function returns ``None`` or an empty value then, and never
raises for that. Everything read is the target's own text: bounded here, sanitised before it is shown.
"""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

_MAX_COMMAND = 4096
_MAX_ARGUMENTS = 64
_MAX_MAPS = 8 << 20
_FIRST_READ, _NEXT_READ = 4096, 1 << 16  # most files are short, and room is taken before it is known
_KTHREAD = 0x00200000
_INITIAL_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO, include/linux/proc_ns.h
_ASKS_THE_PROCESS = frozenset(("cmdline", "environ", "maps"))
_MAPPING = re.compile(
    rb"^([0-9a-f]+)-([0-9a-f]+) (\S{4}) ([0-9a-f]+) ([0-9a-f]+):([0-9a-f]+) (\d+)\s+(/.*)$", re.MULTILINE
)


class Mapping(NamedTuple):
    """A file mapped into a process. ``device`` is (major, minor); addresses and offset in bytes."""

    start: int
    end: int
    executable: bool
    offset: int
    device: tuple[int, int]
    inode: int
    path: str


class Owners(NamedTuple):
    """The users a process acts as. They differ in a set-user-ID program, which nobody but root owns."""

    real: int
    effective: int
    saved: int
    filesystem: int


class Proc:
    """Reader of one proc file system."""

    def __init__(self, root: Path = Path("/proc")) -> None:
        """Some of it takes a lock that the process may hold as long as it likes, or is in its memory.

        That is read ``under`` what bounds it; inside it is told whether it may be read at all.
        """
        self._root = root
        self._text = str(root)
        self.under: Callable[[int], AbstractContextManager[bool]] = lambda pid: nullcontext(True)

    def initial_namespace(self) -> bool:
        """Whether processes have the kernel side's numbers here: not so in a container's PID namespace."""
        try:
            return os.stat(self._root / "self/ns/pid").st_ino == _INITIAL_PID_NAMESPACE  # noqa: PTH116 (as link)
        except OSError:
            return True  # nothing says otherwise

    def path(self, pid: int, *names: str) -> Path:
        return self._root.joinpath(str(pid), *names)

    def exists(self, pid: int) -> bool:
        """True also for a zombie."""
        return self.path(pid).is_dir()

    def is_kernel_thread(self, pid: int) -> bool:
        fields = self._stat(pid)
        return bool(fields and int(fields[6]) & _KTHREAD)

    def state(self, pid: int) -> str | None:
        """One letter, as in proc(5); ``"Z"`` is a zombie."""
        fields = self._stat(pid)
        return fields[0] if fields else None

    def parent(self, pid: int) -> int | None:
        fields = self._stat(pid)
        return int(fields[1]) if fields else None

    def thread_group(self, tid: int) -> int | None:
        """The process that a thread belongs to (a TID in place of a PID is a common mistake)."""
        for line in self.read(tid, "status").splitlines():
            if line.startswith(b"Tgid:"):
                return int(line.split()[1])
        return None

    def pids(self) -> list[int]:
        """All processes, in numerical order."""
        try:
            return sorted(int(name) for name in os.listdir(self._root) if name.isdigit())  # noqa: PTH208
        except OSError:
            return []

    def started(self, pid: int) -> int | None:
        """Clock ticks after boot: with the PID it names a process for good."""
        fields = self._stat(pid)
        return int(fields[19]) if fields and len(fields) > 19 else None

    def program_started(self, pid: int) -> int | None:
        """The same, and ``None`` for a kernel thread as well: the file is read once for both."""
        fields = self._stat(pid)
        return int(fields[19]) if fields and len(fields) > 19 and not int(fields[6]) & _KTHREAD else None

    def started_ns(self, pid: int) -> int | None:
        """The same on CLOCK_MONOTONIC, to a tick (10 ms); that clock stops while the host is suspended."""
        ticks = self.started(pid)
        if ticks is None:
            return None
        suspended = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        return ticks * (1_000_000_000 // os.sysconf("SC_CLK_TCK")) - suspended

    def owners(self, pid: int) -> Owners | None:
        for line in self.read(pid, "status").splitlines():
            if line.startswith(b"Uid:"):
                return Owners(*(int(number) for number in line.split()[1:5]))
        return None

    def sole_owner(self, pid: int) -> int | None:
        """The user that a process acts as, if it acts as nobody else and he may look into it.

        Not one that acts as another user or group too, holds a capability, or is undumpable: one that changed
        its credentials or keeps secrets, whose files in /proc belong to root.
        """
        said = dict(line.split(b":", 1) for line in self.read(pid, "status").splitlines() if b":" in line)
        if not {b"Uid", b"Gid", b"CapPrm"} <= said.keys():
            return None
        users, groups = (set(said[name].split()) for name in (b"Uid", b"Gid"))
        if len(users) != 1 or len(groups) != 1 or int(said[b"CapPrm"], 16) != 0:
            return None
        owner = int(users.pop())
        if said.get(b"State", b"").strip()[:1] in (b"Z", b"X"):  # nothing is left to look into
            return owner
        try:
            return owner if os.stat(self.path(pid, "mem")).st_uid == owner else None  # noqa: PTH116
        except OSError:
            return None

    def link(self, pid: int, name: str) -> str | None:
        try:
            return os.readlink(self.path(pid, name))  # noqa: PTH115 (text, not a path to normalise)
        except OSError:
            return None

    def open_files(self, pid: int, limit: int) -> Iterator[str]:
        """What the first ``limit`` descriptors of a process refer to."""
        folder = self.path(pid, "fd")
        try:
            with os.scandir(folder) as entries:
                for entry in itertools.islice(entries, limit):
                    target = self.link(pid, f"fd/{entry.name}")
                    if target is not None:
                        yield target
        except OSError:
            return

    def command(self, pid: int) -> tuple[str, ...]:
        """Arguments, at most 64 of them in 4 KiB; the bare name for one without (empty: gone)."""
        raw = self.read(pid, "cmdline", _MAX_COMMAND)
        if raw:
            words = raw.rstrip(b"\0").split(b"\0")[:_MAX_ARGUMENTS]
            return tuple(word.decode("utf-8", "replace") for word in words)
        name = self.read(pid, "comm").strip().decode("utf-8", "replace")
        return (name,) if name else ()

    def cgroup(self, pid: int) -> str | None:
        """Path in the unified hierarchy, else in the cpu controller's, else ``None``."""
        paths: dict[bytes, bytes] = {}
        for line in self.read(pid, "cgroup").splitlines():
            number, _, rest = line.partition(b":")
            controllers, _, path = rest.partition(b":")
            for controller in (b"0",) if number == b"0" else controllers.split(b","):
                paths[controller] = path
        unified = paths.get(b"0", b"/")
        found = unified if unified != b"/" else paths.get(b"cpu", paths.get(b"0"))
        return found.decode("utf-8", "replace") if found else None

    def netns(self, pid: int) -> int:
        """Inode of its network namespace, 0 when it cannot be read."""
        try:
            return os.stat(f"{self._text}/{pid}/ns/net").st_ino  # noqa: PTH116 (as in read)
        except OSError:
            return 0

    def memory(self, pid: int) -> tuple[int, int, int | None] | None:
        """Resident bytes now, the most they ever were in this image, and what no file backs."""
        values: dict[bytes, int] = {}
        for line in self.read(pid, "status").splitlines():
            name, _, rest = line.partition(b":")
            if name in (b"VmRSS", b"VmHWM", b"RssAnon", b"RssShmem", b"VmSwap"):
                values[name] = int(rest.split()[0]) * 1024
        if b"VmRSS" not in values:
            return None
        own = sum(values.get(name, 0) for name in (b"RssAnon", b"RssShmem", b"VmSwap"))
        return values[b"VmRSS"], values.get(b"VmHWM", values[b"VmRSS"]), own if b"RssAnon" in values else None

    def thread_name(self, pid: int, tid: int) -> str:
        return self.read(pid, f"task/{tid}/comm").strip().decode("utf-8", "replace")

    def mappings(self, pid: int, limit: int = _MAX_MAPS) -> Iterator[Mapping]:
        """Files mapped by a process, as far as ``limit`` bytes of text tell of them: 64 KiB take 0.5 ms."""
        text = self.read(pid, "maps", limit)
        if len(text) >= limit:
            text = text[: text.rfind(b"\n") + 1]  # half a line would name another file
        for match in _MAPPING.finditer(text):
            start, end, flags, offset, major, minor, inode, path = match.groups()
            yield Mapping(
                int(start, 16),
                int(end, 16),
                b"x" in flags,
                int(offset, 16),
                (int(major, 16), int(minor, 16)),
                int(inode),
                os.fsdecode(path),
            )

    def _stat(self, pid: int) -> list[str] | None:
        raw = self.read(pid, "stat")
        _, closing, rest = raw.rpartition(b")")  # the name before it may hold anything, also ")"
        fields = rest.decode("ascii", "replace").split()
        return fields if closing and len(fields) > 7 else None

    def read(self, pid: int, name: str, limit: int = 65536) -> bytes:
        """Up to ``limit`` bytes; empty when the process or the permission is gone."""
        if name not in _ASKS_THE_PROCESS:
            return self._read(pid, name, limit)
        with self.under(pid) as may:
            return self._read(pid, name, limit) if may else b""

    def _read(self, pid: int, name: str, limit: int) -> bytes:
        parts = []
        room = _FIRST_READ
        try:  # without pathlib and file objects, which take three times as long as the kernel does
            file = os.open(f"{self._text}/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return b""
        try:
            while limit > 0 and (part := os.read(file, min(limit, room))):
                parts.append(part)
                limit -= len(part)
                room = _NEXT_READ
        except OSError:
            pass
        finally:
            os.close(file)
        return b"".join(parts)
