"""What a running daemon holds, once a second: memory, descriptors, BPF objects, threads, CPU, losses."""

from __future__ import annotations

import contextlib
import ctypes as c
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whyidle_daemon import libbpf
from whyidle_wire.client import Client
from whyidle_wire.records import Status, StatusReply

_HASH_TYPES = (1, 5, 9, 10)  # BPF_MAP_TYPE_HASH, per CPU, with LRU, both


@dataclass(frozen=True)
class Sample:
    """One line of the CSV. ``seconds`` since the soak began; sizes in bytes; counters since the daemon began.

    ``anonymous_bytes``: of the resident memory what no file backs, mostly the heap. ``map_entries``: in all
    hash maps together. ``lost``: what the kernel side found no room for.
    """

    seconds: float
    rss_bytes: int
    anonymous_bytes: int
    cpu_s: float
    threads: int
    descriptors: int
    bpf_maps: int
    bpf_programs: int
    map_entries: int
    observations: int
    clients: int
    queued_bytes: int
    lost: int
    dropped: int


class Sampler:
    """Looks at one daemon from outside; what only it knows, it is asked."""

    def __init__(self, pid: int, socket: Path) -> None:
        self._proc = Path(f"/proc/{pid}")
        self._client = Client.connect(socket)
        self._client.handshake("soak")
        self._bpf = libbpf.library()

    def sample(self, seconds: float) -> Sample:
        """Raises FileNotFoundError or WireError when the daemon is gone."""
        maps, programs, descriptors = self._descriptors()
        status = self._status()
        rss, anonymous = self._memory()
        counters = status["counters"]
        return Sample(
            seconds=seconds,
            rss_bytes=rss,
            anonymous_bytes=anonymous,
            cpu_s=self._cpu_s(),
            threads=len(list((self._proc / "task").iterdir())),
            descriptors=descriptors,
            bpf_maps=len(maps),
            bpf_programs=programs,
            map_entries=sum(self._entries(*about) for about in maps.items()),
            observations=status["observations"],
            clients=status["clients"] - 1,  # this one
            queued_bytes=status["client_queues_bytes"],
            lost=sum(value for name, value in counters.items() if name.endswith("_lost")),
            dropped=status["records_dropped"],
        )

    def close(self) -> None:
        self._client.close()

    def _status(self) -> dict[str, Any]:
        self._client.send(Status(1))
        reply = self._client.receive(30)
        if not isinstance(reply, StatusReply):
            raise RuntimeError(f"the daemon did not say how it is: {reply}")
        return reply.status

    def _memory(self) -> tuple[int, int]:
        """Resident memory, and what of it no file backs; bytes."""
        said = dict(line.split(":", 1) for line in (self._proc / "status").read_text().splitlines())
        return int(said["VmRSS"].split()[0]) << 10, int(said["RssAnon"].split()[0]) << 10

    def _cpu_s(self) -> float:
        total = 0
        for task in (self._proc / "task").iterdir():
            with contextlib.suppress(FileNotFoundError):  # it ended meanwhile
                total += int((task / "schedstat").read_text().split()[0])
        return total / 1e9

    def _descriptors(self) -> tuple[dict[int, int], int, int]:
        """Maps (number: size of a key; 0: not hashed), programs, and descriptors of any kind."""
        maps: dict[int, int] = {}
        programs, count = set(), 0
        for path in (self._proc / "fdinfo").iterdir():
            count += 1
            with contextlib.suppress(FileNotFoundError):
                said = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
                if "map_id" in said:
                    hashed = int(said["map_type"]) in _HASH_TYPES
                    maps[int(said["map_id"])] = int(said["key_size"]) if hashed else 0
                elif "prog_id" in said and "link_id" not in said:
                    programs.add(int(said["prog_id"]))
        return maps, len(programs), count

    def _entries(self, number: int, key_size: int) -> int:
        """How many keys a hash map has; entries that come and go meanwhile may be in it or not."""
        if not key_size:
            return 0
        fd = self._bpf.bpf_map_get_fd_by_id(number)
        if fd < 0:
            return 0
        keys: set[bytes] = set()
        key, following = None, c.create_string_buffer(key_size)
        try:
            # A key that is deleted under our feet starts the walk again: those seen already end it.
            while self._bpf.bpf_map_get_next_key(fd, key, following) == 0 and following.raw not in keys:
                keys.add(following.raw)
                key = c.create_string_buffer(following.raw, key_size)
        finally:
            os.close(fd)
        return len(keys)
