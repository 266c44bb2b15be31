"""What the daemon learns of a target besides kernel events.

These tuples and the kernel's own records (:mod:`whyidle_probes.events`) are everything that attribution
ever sees: feed it the same ones, live, in a test or from a recording, and the same report comes out.

Times are nanoseconds on CLOCK_MONOTONIC, sizes are bytes. Strings come from targets and were never checked:
sanitise them before a terminal sees them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from whyidle_daemon.things import Thing
from whyidle_probes.events import NO_PEER, Engine, Peer, Thread, Wait


class ProcessFacts(NamedTuple):
    """What ``/proc/PID`` said of a process at ``ns``; ``cgroup`` is ``None`` when it could not be read.

    ``netns`` is the inode of its network namespace, 0: not known.
    """

    pid: int
    ppid: int
    command: tuple[str, ...]
    cgroup: str | None
    ns: int
    netns: int = 0


class MemorySample(NamedTuple):
    """Resident memory of a process at ``ns``; ``peak_bytes`` is the kernel's own high-water mark.

    ``own_bytes`` is what no file backs: anonymous, shared and swapped; ``None`` before Linux 4.5.
    """

    pid: int
    ns: int
    rss_bytes: int
    peak_bytes: int | None
    own_bytes: int | None = None


class LimitSample(NamedTuple):
    """What bounds the memory of the target, at ``ns``: ``scope`` is ``cgroup``, ``host`` or ``gpu``.

    ``name`` is the group's path or the GPU, ``used_bytes`` what cannot be given back, by whomever it is used.
    """

    scope: str
    name: str
    ns: int
    used_bytes: int
    limit_bytes: int


class EngineFacts(NamedTuple):
    """What a llama.cpp context holds, as found at ``ns``; ``None`` is not known, ``doubt`` says why.

    ``n_ctx`` is in tokens, ``kv_bytes`` the KV cache, ``model_bytes`` the model's file, ``model`` its name.
    """

    pid: int
    context: int
    ns: int
    n_ctx: int | None
    kv_bytes: int | None
    model_bytes: int | None
    model: str
    doubt: str = ""


class Site(NamedTuple):
    """Where in the code a thread was: the innermost frame of the user's own code, and all frames.

    ``stack`` is innermost first, one ``function (file:line)`` each. ``line`` is ``None`` when not known.
    """

    function: str
    file: str
    line: int | None
    stack: tuple[str, ...]


class StackSample(NamedTuple):
    """The code that thread ``tid`` sleeps in, read during the wait that began at ``since_ns``.

    ``since_ns`` equals ``Slice.start_ns`` of that wait, which arrives later (or ``Thread.last_ns`` while it
    lasts); no such slice comes of a wait below the threshold, so the sample says itself what it is of, by
    ``wait`` and ``peer``. ``loop`` is ``"blocked"`` when an asyncio loop runs in the thread and a synchronous
    call keeps it from its selector, ``"waiting"`` when the selector itself is what sleeps, ``"awaiting"``
    when moreover one single task waits for the network (``site`` is then that task's), ``""`` without a loop.
    ``thread`` is what Python calls it, ``""`` where that is not known.
    """

    pid: int
    tid: int
    since_ns: int
    site: Site
    loop: str = ""
    wait: int = Wait.UNKNOWN
    peer: Peer = NO_PEER
    thread: str = ""


class AwaitingTasks(NamedTuple):
    """Tasks of a waiting asyncio loop that are alike: ``number`` of them, ``name`` of the first or empty.

    ``site`` is where they wait (``stack`` is the chain of coroutines, innermost first) and ``kind`` what
    for: ``socket``, ``timer``, ``task``, ``lock``, ``queue``, ``thread``, ``dns``, ``child``, ``connect``,
    ``future``. A socket has a ``peer`` if its other end is known (``ports`` are the local ones);
    ``inbound``: that one is a client of the target. ``wanted``: the main task waits for it, or another one
    does. ``since_ns``: when the loop began to sleep during which one was first seen in this wait.
    """

    name: str
    site: Site
    kind: str
    peer: Peer
    number: int
    since_ns: int
    ports: tuple[int, ...] = ()
    inbound: bool = False
    wanted: bool = False


class LoopTasks(NamedTuple):
    """What an event loop waits for that sleeps in its selector since ``since_ns`` (as in StackSample).

    ``total`` tasks were there, or at least one more than was read. Where tasks cannot be read
    ``reason`` says why, and ``sockets`` are the other ends that the selector waits for, clients left out.
    """

    pid: int
    tid: int
    since_ns: int
    tasks: tuple[AwaitingTasks, ...] = ()
    total: int = 0
    reason: str = ""
    sockets: tuple[Peer, ...] = ()


class Lookup(NamedTuple):
    """A name that a process looked up: ``status`` is getaddrinfo's result (0: found)."""

    pid: int
    tid: int
    start_ns: int
    end_ns: int
    host: str
    status: int


class HostName(NamedTuple):
    """``address`` (raw, 4 or 16 bytes) is how ``host`` was resolved, at ``ns``, by process ``pid``.

    With a ``port`` it was not resolved: the process called the peer so in what it wrote first on a connection
    (TLS's SNI or HTTP's Host; empty when that was no name), and asked for ``path`` if that was HTTP.
    ``netns`` is the inode of its network namespace, 0: not known.
    """

    pid: int
    ns: int
    family: int
    address: bytes
    host: str
    port: int = 0
    path: str = ""
    netns: int = 0


class CudaFacts(NamedTuple):
    """Process ``pid`` maps a CUDA library; ``simulated``: one that stands in for the hardware."""

    pid: int
    ns: int
    simulated: bool


class LaunchesSeen(NamedTuple):
    """From ``ns`` on calls are observed, or (``seen`` false) no longer: there were ``rate`` per second.

    ``what``: ``launch`` for CUDA launches and copies, ``decode`` for llama.cpp's.
    """

    ns: int
    seen: bool
    rate: int
    what: str = "launch"


class EngineSpan(NamedTuple):
    """A source saw engine ``engine`` compute for ``busy_ns`` of ``start_ns`` to ``end_ns``, whenever in it.

    ``copy_ns`` was spent on copies besides: not idle either. A source says where an engine was idle by spans
    with nothing in them; what no span covers is unknown. ``edge_ns`` is how far from ``start_ns`` and
    ``end_ns`` the truth may lie: microseconds for a uprobe, the sample period for NVML. ``pid``: whose work
    it was; 0 is anybody's, so the whole device's. Of two spans the one with the smaller ``edge_ns`` counts.
    """

    engine: str
    start_ns: int
    end_ns: int
    busy_ns: int
    copy_ns: int = 0
    edge_ns: int = 0
    pid: int = 0

    def within(self, start_ns: int, end_ns: int) -> EngineSpan | None:
        """The part in an interval, with its share of the work; ``None`` if there is none."""
        start, end = max(self.start_ns, start_ns), min(self.end_ns, end_ns)
        if start >= end:
            return None
        if (start, end) == (self.start_ns, self.end_ns):
            return self
        length, whole = end - start, self.end_ns - self.start_ns
        busy, copy = self.busy_ns * length // whole, self.copy_ns * length // whole
        return self._replace(start_ns=start, end_ns=end, busy_ns=busy, copy_ns=copy)


class GpuFacts(NamedTuple):
    """One GPU of the host, or one MIG instance of it (``parent`` is then the GPU's ``gpu``).

    ``gpu`` names it as an engine (``nvml:0``, ``drm:1``), ``via`` is how it is read. ``simulated``: no
    hardware, a library that stands in for it. ``unknown`` says in words what cannot be read of it and why.
    """

    gpu: str
    ns: int
    number: int
    name: str
    driver: str | None
    memory_total_bytes: int | None
    via: str
    simulated: bool = False
    parent: str = ""
    unknown: tuple[str, ...] = ()


class GpuSample(NamedTuple):
    """State of a GPU at ``ns``; ``None`` is unknown, and ``GpuFacts.unknown`` or ``lost`` says why.

    ``throttle`` are NVML's clocks-event reasons (bits), ``lost`` why nothing at all could be read.
    """

    gpu: str
    ns: int
    memory_used_bytes: int | None
    power_mw: int | None
    throttle: int | None
    lost: str = ""


class GpuUse(NamedTuple):
    """Process ``pid`` of the target held memory of a GPU at ``ns``; ``others`` are processes of no target.

    ``utilization`` is its share of the GPU's time in permille; ``None``: not known.
    """

    gpu: str
    pid: int
    ns: int
    memory_bytes: int | None
    utilization: int | None = None
    others: int = 0


class Serving(NamedTuple):
    """Process ``pid`` accepted connections on ``port`` before the observation began."""

    pid: int
    port: int


class Tie(NamedTuple):
    """What was seen before the observation began of thread ``tid`` of ``pid``: others may depend on it.

    With ``ended`` it was the last that ended a wait for ``thing`` or, without one, in ``wait`` of thread
    ``sleeper``. Else it uses ``thing``, an end of a connection.
    """

    pid: int
    tid: int
    ended: bool
    thing: Thing | None
    sleeper: int = 0
    wait: int = Wait.UNKNOWN


class Host(NamedTuple):
    """The machine. ``gpus`` holds the contract's ``{index, name, driver, memory_total_bytes}`` objects."""

    kernel: str
    cpus: int
    gpus: tuple[dict[str, Any], ...] = ()


class Loss(NamedTuple):
    """Counts of what was not seen, and for how long nothing was (``blind_ns``)."""

    slices_lost: int = 0
    control_lost: int = 0
    threads_lost: int = 0
    waits_lost: int = 0
    gaps_lost: int = 0
    engines_lost: int = 0
    stacks_lost: int = 0
    blind_ns: int = 0
    inferences_lost: int = 0

    @property
    def events_lost(self) -> int:
        """Everything lost that is counted in events."""
        return (
            self.slices_lost
            + self.control_lost
            + self.threads_lost
            + self.waits_lost
            + self.gaps_lost
            + self.engines_lost
            + self.inferences_lost
        )


class Overhead(NamedTuple):
    """What observing cost; ``bpf_run_s`` is ``None`` when the kernel's BPF statistics are off."""

    daemon_cpu_s: float
    daemon_rss_bytes: int
    bpf_run_s: float | None = None


class Snapshot(NamedTuple):
    """The kernel's totals at one instant: threads not yet reported as ended, and engines."""

    ns: int
    threads: tuple[Thread, ...] = ()
    engines: tuple[Engine, ...] = ()
