"""Who a thread depends on: by whom it was woken, who is at the other end, who made it.

A wake-up counts only if it can be meant: the waker is a thread of the target, and it was in a system call
that ends such a wait. (An interrupt wakes on behalf of nobody, and meets any thread.) For TCP on this host
the other end is known besides by the addresses of both ends. All stores are bounded; what is forgotten
shortens a chain and never bends it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import NamedTuple, TypeVar

from whyidle_daemon.facts import Serving, Tie
from whyidle_daemon.processes import Process
from whyidle_daemon.states import SELECTORS
from whyidle_daemon.things import Thing, thing_of
from whyidle_daemon.timelines import Record, Waker
from whyidle_probes.events import NO_SYSCALL, Slice, Start, Thread, Wait
from whyidle_probes.syscalls import syscall_name

MAX_KEPT = 8192
MAX_TOLD = 1024
"""Of the latest users, and of who ended waits, an observation that takes over is told so many."""

_K = TypeVar("_K")
_V = TypeVar("_V")

# No kill: a signal that cuts a wait short is not what it waited for.
_EXITS = "exit exit_group execve execveat close close_range"
_SENDS = "write writev pwritev sendto sendmsg sendmmsg sendfile splice tee vmsplice shutdown io_uring_enter"
_RECEIVES = "read readv recvfrom recvmsg recvmmsg"  # make room for a writer
_ENDS = {
    Wait.FUTEX: "futex futex_wake futex_requeue exit exit_group",
    Wait.PIPE: f"{_SENDS} {_RECEIVES} {_EXITS} dup2 dup3",
    Wait.UNIX: f"{_SENDS} {_RECEIVES} {_EXITS} connect accept accept4",
    Wait.EVENTFD: f"{_SENDS} {_RECEIVES}",
    Wait.SYSV_IPC: "semop semtimedop semctl msgsnd msgrcv mq_timedsend mq_timedreceive",
    Wait.SIGNAL: "kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_send_signal exit exit_group",
    Wait.TCP: f"{_SENDS} {_RECEIVES} {_EXITS} connect",
    Wait.UDP: _SENDS,
    Wait.LISTEN: "connect sendto sendmsg io_uring_enter",
}
_SELECTED = " ".join(_ENDS[wait] for wait in (Wait.PIPE, Wait.UNIX, Wait.EVENTFD, Wait.TCP))
ENDED_BY: dict[int, frozenset[str]] = {
    **{int(wait): frozenset(names.split()) for wait, names in _ENDS.items()},
    int(Wait.EPOLL): frozenset(_SELECTED.split()),
    int(Wait.POLL): frozenset(_SELECTED.split()),
    int(Wait.IO_URING): frozenset(_SELECTED.split()),
}
"""The system calls by which another thread ends a wait. Whatever else wakes a child's parent is its death."""

_SOCKETS = SELECTORS | {int(Wait.TCP), int(Wait.UDP)}

Who = tuple[int, int]
"""A thread: its process and its number."""


class Birth(NamedTuple):
    """When a thread began, by whom it was made, and of which process it is."""

    ns: int
    creator: Who
    pid: int


class Wakes:
    """What the slices and starts of a target say about who depends on whom."""

    def __init__(self, find: Callable[[int, int], Process | None], limit: int = MAX_KEPT) -> None:
        self._find = find
        self._limit = limit
        self._births: dict[int, Birth] = {}
        self._ends: dict[int, tuple[int, int]] = {}  # tid -> first_ns, end_ns of the latest life
        self._users: dict[Thing, Who] = {}
        self._last: dict[tuple[int, int] | Thing, Who] = {}
        self.serving: set[Serving] = set()  # processes that accept connections, and on which ports
        self._interned: dict[Waker | Thing, Waker | Thing] = {}

    def start(self, start: Start) -> None:
        """A thread began."""
        self._put(self._births, start.tid, Birth(start.ns, (start.creator_pid, start.creator_tid), start.pid))

    def exit(self, thread: Thread) -> None:
        """A thread ended."""
        self._put(self._ends, thread.tid, (thread.first_ns, thread.end_ns))

    def linked(self, record: Record, slice_: Slice) -> Record:
        """The record with what ended its wait, which is remembered."""
        if not slice_.blocked_ns:
            return record
        found = thing_of(record.wait, slice_.peer, slice_.inode, slice_.peer_inode)
        thing = self._intern(found) if found is not None else None
        waker = None
        if slice_.waker_tid and (slice_.waker_syscall != NO_SYSCALL or record.wait == Wait.CHILD):
            waker = self._intern(Waker(slice_.waker_pid, slice_.waker_tid, slice_.waker_syscall))
        if thing is None and waker is None:
            return record  # a clock, or somebody outside: as it was made
        record = record._replace(waker=waker, thing=thing)
        who = slice_.pid, slice_.tid
        if thing is not None and thing.kind == "listen":
            self.serves(Serving(slice_.pid, slice_.peer.local_port))
        if thing is not None and thing.kind in ("tcp", "unix"):
            self._put(self._users, thing, who)
        by = self.ended_by(who, record)
        if by is not None:
            self._put(self._last, (slice_.tid, record.wait), by)
            if thing is not None:
                self._put(self._last, thing, by)
        return record

    def serves(self, serving: Serving) -> None:
        """A process accepts connections."""
        if len(self.serving) < self._limit:
            self.serving.add(serving)

    def tie(self, tie: Tie) -> None:
        """Who uses something, or ended a wait, as an earlier observation saw."""
        who = tie.pid, tie.tid
        if tie.ended:
            what: Thing | tuple[int, int] = tie.thing or (tie.sleeper, tie.wait)
            self._put(self._last, what, who)
        elif tie.thing is not None:
            self._put(self._users, tie.thing, who)

    def known(self, alive: Collection[Who]) -> Iterator[Serving | Tie]:
        """What still holds while these threads live: for an observation that takes over from this one."""
        pids, tids = {pid for pid, _ in alive}, {tid for _, tid in alive}
        yield from sorted(serving for serving in self.serving if serving.pid in pids)
        users = [Tie(*who, False, thing) for thing, who in self._users.items() if who in alive]
        ended = []
        for what, who in self._last.items():
            if who in alive:
                if isinstance(what, Thing):
                    ended.append(Tie(*who, True, what))
                elif what[0] in tids:
                    ended.append(Tie(*who, True, None, *what))
        yield from users[-MAX_TOLD:]
        yield from ended[-MAX_TOLD:]

    def ended_within(self, slice_: Slice, wait: int) -> bool:
        """Whether a thread of the target ended this wait."""
        thing = thing_of(wait, slice_.peer, slice_.inode, slice_.peer_inode)
        waker = Waker(slice_.waker_pid, slice_.waker_tid, slice_.waker_syscall)
        known = waker if slice_.waker_tid and slice_.waker_syscall != NO_SYSCALL else None
        record = Record(slice_.start_ns, slice_.blocked_ns, 0, wait, None, waker=known, thing=thing)
        return self.ended_by((slice_.pid, slice_.tid), record) is not None

    def ended_by(self, who: Who, record: Record) -> Who | None:
        """The thread of the target that ended a wait; ``None``: time, a device, or somebody outside."""
        ns = record.start_ns + record.blocked_ns
        other = self._users.get(record.thing.other()) if record.thing is not None else None
        waker = record.waker
        agrees = waker is not None and (other is None or other[0] == waker.pid)
        if waker is not None and agrees and self._meant(who, record, waker, ns):
            return waker.pid, waker.tid
        return other if other != who and self._lives(other, ns) else None

    def _meant(self, who: Who, record: Record, waker: Waker, ns: int) -> bool:
        if (waker.pid, waker.tid) == who or self._find(waker.pid, ns) is None:
            return False
        if record.wait == Wait.CHILD:
            process = self._find(waker.pid, ns)
            return process is not None and process.ppid == who[0]
        if record.wait in _SOCKETS and record.key is not None and record.key.port and record.thing is None:
            return False  # data from another host, whoever the interrupt met
        return (syscall_name(waker.syscall) or "") in ENDED_BY.get(record.wait, ())

    def awaited(self, who: Who, record: Record, ns: int, processes: Iterable[Process]) -> Who | None:
        """Who would have to end a wait that lasts at ``ns``: the other end, a child, who did so before."""
        thing = record.thing
        candidates = [self._users.get(thing.other()) if thing is not None else None]
        if record.wait == Wait.CHILD or (record.key is not None and record.key.state == "child"):
            children = [p for p in processes if p.ppid == who[0] and not p.end_ns and p.start_ns <= ns]
            newest = max(children, key=lambda p: (p.start_ns, p.pid), default=None)
            candidates.append((newest.pid, newest.pid) if newest is not None else None)
        if thing is not None:
            candidates.append(self._last.get(thing))
        remote = thing is None and record.wait in SELECTORS and record.key is not None and record.key.port
        if record.wait in ENDED_BY and not remote and (thing is None or thing.kind != "tcp"):
            candidates.append(self._last.get((who[1], record.wait)))
        return next((by for by in candidates if by is not None and by != who and self._lives(by, ns)), None)

    def birth(self, who: Who, ns: int) -> Birth | None:
        """How a thread that lived at ``ns`` began, if that was seen."""
        birth = self._births.get(who[1])
        return birth if birth is not None and birth.ns <= ns else None

    def ended(self, who: Who, ns: int) -> int:
        """When a thread ended, if that was before ``ns`` and no other has its number since; else 0."""
        first_ns, end_ns = self._ends.get(who[1], (0, 0))
        birth = self._births.get(who[1])
        return end_ns if end_ns < ns and (birth is None or birth.ns <= first_ns) else 0

    def lives(self, pid: int) -> dict[int, tuple[int, int]]:
        """The threads of a process that were seen to begin: when, and when they ended (0: not yet)."""
        found = {}
        for tid, birth in self._births.items():
            if birth.pid == pid:
                first_ns, end_ns = self._ends.get(tid, (0, 0))
                found[tid] = (birth.ns, end_ns if first_ns >= birth.ns else 0)
        return found

    def _lives(self, who: Who | None, ns: int) -> bool:
        if who is None or self.ended(who, ns):
            return False
        process = self._find(who[0], ns)
        return process is not None and not (process.end_ns and process.end_ns < ns)

    def _intern(self, value: _V) -> _V:
        """One object for what comes again and again: slices are kept by the ten thousand."""
        if len(self._interned) >= self._limit:
            self._interned.clear()
        return self._interned.setdefault(value, value)  # type: ignore[arg-type, return-value]

    def _put(self, store: dict[_K, _V], key: _K, value: _V) -> None:
        store.pop(key, None)
        store[key] = value
        if len(store) > self._limit:
            del store[next(iter(store))]
