"""What the daemon learns of a target besides kernel events.

These tuples and the kernel's own records (:mod:`whyidle_probes.events`) are everything that attribution
ever sees: feed it the same ones, live, in a test or from a recording, and the same report comes out.

Times are nanoseconds on CLOCK_MONOTONIC, sizes are bytes. Strings come from targets and were never checked:
sanitise them before a terminal sees them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

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
    """Resident memory of a process at ``ns``; ``peak_bytes`` is the kernel's own high-water mark."""

    pid: int
    ns: int
    rss_bytes: int
    peak_bytes: int | None


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
    """

    pid: int
    tid: int
    since_ns: int
    site: Site
    loop: str = ""
    wait: int = Wait.UNKNOWN
    peer: Peer = NO_PEER


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
