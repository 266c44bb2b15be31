"""What the kernel side stores and emits, as values. :mod:`whyidle_probes.structs` decodes them.

Times are nanoseconds on CLOCK_MONOTONIC. Everything here came through the kernel but describes hostile
processes: names are bytes that were never checked, so they are decoded with replacement and must be
sanitised before a terminal sees them.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

STATES = 32
SYSCALLS = 512
NO_SYSCALL = 0xFFFF


class Wait(IntEnum):
    """``enum wi_state``: where a thread's time goes, as far as the kernel can tell."""

    RUNNING = 0
    RUNQUEUE = 1
    OTHER = 2
    TCP = 3
    UDP = 4
    SOCKET = 5
    UNIX = 6
    PIPE = 7
    FILE = 8
    DEVICE = 9
    EPOLL = 10
    POLL = 11
    FUTEX = 12
    SLEEP = 13
    CHILD = 14
    EVENTFD = 15
    SIGNAL = 16
    IO_URING = 17
    SYSV_IPC = 18
    FAULT = 19
    MEMORY = 20
    STOPPED = 21
    LISTEN = 22
    ANON = 23
    DISK = 24
    UNKNOWN = 25
    GIL = 26
    THROTTLED = 27
    GPU = 28


class EventType(IntEnum):
    """``enum wi_event``."""

    SLICE = 1
    THREAD_EXIT = 2
    FORK = 3
    EXEC = 4
    EXIT = 5
    LIBRARY = 6
    GAP = 7
    LOOKUP = 8
    FIRST_WRITE = 9
    INFERENCE = 16
    CONTEXT = 17
    START = 24
    NOTICED = 64
    NOTES_WANTED = 65


class Stat(IntEnum):
    """``enum wi_stat``: indexes of the counters of what happened and what was lost."""

    SLICES = 0
    SLICES_LOST = 1
    CONTROL_LOST = 2
    THREADS_LOST = 3
    WAITS_LOST = 4
    EXITS_KEPT = 5
    ENGINES_LOST = 6
    GAPS_LOST = 7
    ITER_NEW = 8
    NAMES_LOST = 9
    SWITCHES_HIDDEN = 10
    INFERENCES_LOST = 12
    LAUNCHES = 14
    DECODES = 15


class Notice(IntEnum):
    """``enum wi_notice``: whether the kernel side notices processes that nobody observes."""

    OFF = 0
    ARMED = 1
    SENT = 2


STATS = 16
THREAD_PREEXISTING = 1
THREAD_LEADER = 2
ENGINE_PARALLEL = 4
INFERENCE_GAP_NS = 200_000_000
THREAD_GPU = 4
CONTEXT_CUDA = 1  # a bit of a CUDA context; alone, an engine that is all a process does through libcuda


def is_cuda(context: int) -> bool:
    """Whether an engine's context is one of CUDA; else it is llama.cpp's."""
    return bool(context & CONTEXT_CUDA)


class Peer(NamedTuple):
    """Both ends of a socket. Addresses are raw: 4 significant bytes for AF_INET, 16 for AF_INET6."""

    local: bytes
    remote: bytes
    local_port: int
    remote_port: int
    family: int
    type: int
    tcp_state: int
    tcp_end: int = 0  # the state that ended the wait; 0: it did not change


NO_PEER = Peer(bytes(16), bytes(16), 0, 0, 0, 0, 0)


class Slice(NamedTuple):
    """One interval off the CPU: ``blocked_ns`` asleep, then ``runqueue_ns`` waiting for a CPU.

    A preemption has ``blocked_ns == 0`` and ``state == Wait.RUNQUEUE``. Those of less than 32 ms within 80 ms
    are one slice, where the first began, as long as all of them.
    """

    target: int
    pid: int
    tid: int
    start_ns: int
    blocked_ns: int
    runqueue_ns: int
    arg: int
    inode: int
    waker_pid: int
    waker_tid: int
    state: int
    syscall: int
    fd: int
    peer: Peer
    peer_inode: int = 0  # of the other end of a Unix socket
    waker_syscall: int = NO_SYSCALL  # none: an interrupt met the waker by chance

    @property
    def end_ns(self) -> int:
        """When the thread was on a CPU again."""
        return self.start_ns + self.blocked_ns + self.runqueue_ns


class Thread(NamedTuple):
    """Totals of one thread since ``first_ns``, and what it has been doing since ``last_ns``.

    ``ns`` and ``count`` are indexed by :class:`Wait`; ``ns`` does not yet hold the time since ``last_ns``.
    ``clock_samples`` of its CPU time were taken, ``polling_samples`` of these in a poll that does not wait.
    ``end_ns`` is 0 while the thread lives.
    """

    pid: int
    tid: int
    target: int
    flags: int
    first_ns: int
    last_ns: int
    wake_ns: int
    end_ns: int
    arg: int
    inode: int
    engine: int
    waker_pid: int
    waker_tid: int
    state: int
    syscall: int
    fd: int
    peer: Peer
    comm: str
    ns: tuple[int, ...]
    count: tuple[int, ...]  # type: ignore[assignment] # hides tuple.count, which nobody wants here
    clock_samples: int = 0
    polling_samples: int = 0
    peer_inode: int = 0
    waker_syscall: int = NO_SYSCALL

    def asleep_ns(self, open_ns: int) -> int:
        """How much of a wait that has lasted for ``open_ns`` it slept: until it was woken, if it was."""
        return open_ns if self.wake_ns < self.last_ns else min(open_ns, self.wake_ns - self.last_ns)

    def totals_at(self, now_ns: int) -> list[int]:
        """``ns`` with the current, unfinished interval added: sums to ``now_ns - first_ns`` exactly.

        ``now_ns`` earlier than ``last_ns`` (the thread switched after the clock was read) adds nothing.
        """
        ns = list(self.ns)
        open_ns = max(0, (self.end_ns or now_ns) - self.last_ns)
        if self.end_ns:
            return ns
        if self.state > Wait.RUNQUEUE:
            asleep = self.asleep_ns(open_ns)
            ns[self.state] += asleep
            ns[Wait.RUNQUEUE] += open_ns - asleep
        elif self.state == Wait.RUNNING and self.flags & THREAD_GPU:
            ns[Wait.GPU] += open_ns
        else:
            ns[self.state] += open_ns
        return ns


class Glance(NamedTuple):
    """What a thread is doing, without its totals: a tenth of the cost of decoding a :class:`Thread`.

    May be of two moments; compare two of them before relying on one.
    """

    pid: int
    tid: int
    last_ns: int
    wake_ns: int
    end_ns: int
    state: int
    syscall: int
    fd: int
    peer: Peer
    running_ns: int  # on a CPU, before ``last_ns``

    @property
    def wait(self) -> tuple[int, int, int]:
        """What it sleeps in, apart from when: two glances that agree saw the same kind of wait."""
        return self.state, self.syscall, self.fd


class Fork(NamedTuple):
    """A new process (not a thread) appeared in a target."""

    target: int
    ns: int
    parent: int
    pid: int
    comm: str


class Start(NamedTuple):
    """A thread began, the first of a process too; ``creator_tid`` made it."""

    target: int
    ns: int
    pid: int
    tid: int
    creator_pid: int
    creator_tid: int


class Exec(NamedTuple):
    """A process replaced its image; ``old_tid`` differs from ``pid`` when another thread called exec.

    ``rss_peak_pages`` is the peak of the image that is gone: the kernel's own peak at exit never falls below
    it, so an exit peak that equals it says nothing about the new image.
    """

    target: int
    ns: int
    pid: int
    old_tid: int
    comm: str
    path: str
    rss_peak_pages: int


class Exit(NamedTuple):
    """The last thread of a process ended. ``code`` is a wait(2) status; peak memory is in pages."""

    target: int
    ns: int
    pid: int
    code: int
    rss_peak_pages: int
    comm: str


class Library(NamedTuple):
    """A process is mapping a library that holds an engine; ``name`` is the file's last component."""

    target: int
    ns: int
    pid: int
    tid: int
    name: str


class Gap(NamedTuple):
    """An idle interval of an engine that has ended.

    ``tid`` is the thread whose call ended it. ``ns`` (by :class:`Wait`) says where that thread spent the
    gap and sums to its length; it is ``None`` when another thread had made the call before.

    ``unseen``: calls had no probes in this interval, so how much of it was idle is for the slices to say; no
    total of the engine has it.
    """

    target: int
    pid: int
    tid: int
    context: int
    start_ns: int
    end_ns: int
    ns: tuple[int, ...] | None
    unseen: bool = False


class NameLookup(NamedTuple):
    """One getaddrinfo call: ``status`` is its result (0: found), ``addresses`` are (family, 16 raw bytes)."""

    target: int
    start_ns: int
    end_ns: int
    pid: int
    tid: int
    status: int
    host: str
    addresses: tuple[tuple[int, bytes], ...]


class FirstWrite(NamedTuple):
    """The beginning of what a client wrote first on a connection: a TLS ClientHello or an HTTP/1 request.

    Hostile, and not to be kept: :mod:`whyidle_daemon.greetings` takes the name from it.
    """

    target: int
    ns: int
    pid: int
    tid: int
    peer: Peer
    data: bytes


class Noticed(NamedTuple):
    """Processes that nobody observes are in the ``noticed`` map; no second one comes before it is drained."""

    target: int


class NotesWanted(NamedTuple):
    """A thread sleeps in a poll of several: only the network stack can tell what will wake it."""

    target: int


class Engine(NamedTuple):
    """Totals of one model context. ``last_ns`` is when the current busy or idle interval began.

    Tokens and their times are of finished calls: ``prompt_*`` of batches of more than one token, ``decode_*``
    of the others. ``inferences`` were sent as events; the ``run_*`` are of the one that goes on, or that
    nothing has followed yet (``run_start_ns`` 0: none). ``position`` counts the tokens of the longest
    sequence in the context, ``failed`` the calls that returned an error.
    """

    pid: int
    context: int
    target: int
    driver: int
    busy: bool
    first_ns: int
    last_ns: int
    busy_ns: int
    idle_ns: int
    calls: int
    gaps: int
    short_ns: int
    seen: tuple[int, ...]
    prompt_tokens: int = 0
    decode_tokens: int = 0
    prompt_ns: int = 0
    decode_ns: int = 0
    inferences: int = 0
    failed: int = 0
    run_start_ns: int = 0
    run_end_ns: int = 0
    run_prompt_ns: int = 0
    run_decode_ns: int = 0
    run_prompt_tokens: int = 0
    run_decode_tokens: int = 0
    position: int = 0
    position_peak: int = 0
    flags: int = 0


class Inference(NamedTuple):
    """One inference that has ended: a prompt, and the tokens decoded after it.

    ``position`` is how many tokens the longest sequence of the context has at its end. With
    ``ENGINE_PARALLEL`` in ``flags`` a batch held several sequences: where it begins and ends is a guess.
    """

    target: int
    pid: int
    tid: int
    context: int
    start_ns: int
    end_ns: int
    prompt_ns: int
    decode_ns: int
    prompt_tokens: int
    decode_tokens: int
    position: int
    flags: int = 0


class ContextMade(NamedTuple):
    """A model context was made. ``parameters``: the first bytes of ``llama_context_params``, unparsed."""

    target: int
    ns: int
    pid: int
    tid: int
    context: int
    model: int
    parameters: bytes


class ShortWaits(NamedTuple):
    """Waits of one thread for one peer that were too short (or too many) to be slices, summed."""

    pid: int
    tid: int
    remote: bytes
    remote_port: int
    state: int
    family: int
    ns: int
    count: int  # type: ignore[assignment]
    longest_ns: int
    target: int = 0


Event = (
    Slice
    | Thread
    | Fork
    | Exec
    | Exit
    | Library
    | Gap
    | NameLookup
    | FirstWrite
    | Noticed
    | Inference
    | ContextMade
    | Start
)
