"""What a corpus program knows of itself, by its own clock; imported by the programs alone.

A wait is what ``time.monotonic`` says between its two ends, less the CPU time that the thread used in between
and less its time in the run queue (``schedstat``, the kernel's own account): what is left is time asleep. No
frame of this module is on the stack during a wait.

At the program's end, JSON goes to ``$WHYIDLE_TRUTH``: ``{"threads": {tid: {state: seconds}}, "findings":
[{kind, function, port}], "wall_s", "ports", "delay_s": {tid: seconds}, "stolen_s"}``. A state ``"a|b"`` is
the sum of both. ``delay_s`` is how long a thread stood in the run queue, ``stolen_s`` what the hypervisor
took.

Where a wait ends is known to some 10 to 40 µs: an idle CPU has to wake up first, and the kernel charges part
of that to the thread. Programs with hundreds of short waits compare ``"a|runqueue"``; those with thousands
say nothing about seconds.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

PORTS: dict[str, int] = json.loads(os.environ.get("WHYIDLE_PORTS", "{}"))
HTTP = f"http://127.0.0.1:{PORTS.get('http', 0)}"
OTHER = f"http://127.0.0.1:{PORTS.get('other', 0)}"


def stolen() -> float:
    """Seconds that the hypervisor took from all CPUs so far: from inside they look like running."""
    return int(Path("/proc/stat").read_text().split(maxsplit=9)[8]) / os.sysconf("SC_CLK_TCK")


_started = time.monotonic()
_stolen = stolen()
_pid = os.getpid()
_threads: dict[int, dict[str, float]] = {}
_delays: dict[int, float] = {}
_findings: list[dict[str, Any]] = []


def asleep_clock() -> float:
    """A clock of this thread that only runs while it is asleep, seconds."""
    return time.monotonic() - time.thread_time() - run_delay()


def run_delay() -> float:
    """Seconds that this thread stood runnable without a CPU."""
    return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9


def add(state: str, seconds: float, tid: int | None = None) -> None:
    """This thread (or ``tid``) spent that long in a state."""
    states = _threads.setdefault(tid or threading.get_native_id(), {})
    states[state] = states.get(state, 0.0) + seconds


class waiting:  # noqa: N801 (read as a verb: with truth.waiting("network"))
    """The thread waits for one thing in this block; ``seconds`` afterwards."""

    def __init__(self, state: str) -> None:
        self.state = state
        self.seconds = 0.0

    def __enter__(self) -> Self:
        self._began = asleep_clock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        delay = run_delay()  # first: reading it may wait for the GIL, which belongs to the block
        self.seconds = time.monotonic() - time.thread_time() - delay - self._began
        add(self.state, self.seconds)
        _delays[threading.get_native_id()] = delay


def own_cpu(tid: int | None = None) -> None:
    """All the CPU time of this thread so far, and its time in the queue.

    The sum of both, because where one ends and the other begins is not known to 1 %: the kernel's account of
    a preemption uses the clock of the last tick, and softirqs run in between (up to 70 µs each, measured).
    """
    add("running|runqueue", time.thread_time() + run_delay(), tid)


def cpu_for(seconds: float) -> None:
    """Compute for that much CPU time."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def on_its_own(body: Callable[[], None]) -> None:
    """Run ``body`` as a thread of its own, and wait for it.

    The main thread has waited for the same thing before: where nothing is cached yet, its imports came from
    the disk.
    """
    thread = threading.Thread(target=body)
    thread.start()
    thread.join()


def delayed(tid: int, seconds: float) -> None:
    """Another thread, or a child, stood in the run queue that long."""
    _delays[tid] = seconds


class cpu_quota:  # noqa: N801 (reads as a phrase: with truth.cpu_quota(0.2))
    """This process may use that share of a CPU in this block; ``throttled_s`` afterwards. Needs root.

    ``cpu.stat`` is the kernel's own account of how long the group was throttled; it is summed over CPUs, so
    pin the process to one.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._v2 = Path("/sys/fs/cgroup/cgroup.controllers").exists()
        self._root = Path("/sys/fs/cgroup" if self._v2 else "/sys/fs/cgroup/cpu")
        self._group = self._root / f"whyidle-corpus-{_pid}"
        self.throttled_s = 0.0

    def __enter__(self) -> Self:
        self._group.mkdir()
        period = 100_000
        quota = int(self._share * period)
        if self._v2:
            (self._group / "cpu.max").write_text(f"{quota} {period}")
        else:
            (self._group / "cpu.cfs_period_us").write_text(str(period))
            (self._group / "cpu.cfs_quota_us").write_text(str(quota))
        (self._group / "cgroup.procs").write_text(str(_pid))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stat = dict(line.split() for line in (self._group / "cpu.stat").read_text().splitlines())
        micro = stat.get("throttled_usec")
        self.throttled_s = int(micro) / 1e6 if micro else int(stat["throttled_time"]) / 1e9
        (self._root / "cgroup.procs").write_text(str(_pid))
        self._group.rmdir()


class disk_quota:  # noqa: N801 (reads as a phrase: with truth.disk_quota(path, 16 << 20))
    """This process may write that many bytes per second past the page cache in this block.

    The wait is then the kernel's timer's and not the device's, whose interrupts take time that no clock of a
    thread has. Needs root; where the disk or the control group cannot be had, the disk is as fast as it is.
    """

    def __init__(self, path: Path, bytes_per_s: int) -> None:
        self._limit = bytes_per_s
        device = Path(f"/sys/dev/block/{os.major(path.stat().st_dev)}:{os.minor(path.stat().st_dev)}")
        device = device.resolve()
        self._device = (device.parent if (device / "partition").exists() else device) / "dev"
        self._v1 = Path("/sys/fs/cgroup/blkio")
        self._root = self._v1 if self._v1.exists() else Path("/sys/fs/cgroup")
        self._group = self._root / f"whyidle-corpus-{_pid}"

    def __enter__(self) -> Self:
        if self._device.exists():
            on_its_own(self._limit_it)  # moving a process between groups waits for the kernel
        return self

    def _limit_it(self) -> None:
        device = self._device.read_text().strip()
        with contextlib.suppress(OSError):
            if not self._v1.exists():
                (self._root / "cgroup.subtree_control").write_text("+io")
            self._group.mkdir()
            if self._v1.exists():
                (self._group / "blkio.throttle.write_bps_device").write_text(f"{device} {self._limit}")
            else:
                (self._group / "io.max").write_text(f"{device} wbps={self._limit}")
            (self._group / "cgroup.procs").write_text(str(_pid))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        on_its_own(self._free_it)

    def _free_it(self) -> None:
        with contextlib.suppress(OSError):
            (self._root / "cgroup.procs").write_text(str(_pid))
            self._group.rmdir()


def write() -> None:
    """Write the account down and end. Called by itself at the end of the main program.

    Ends at once, so that taking the interpreter apart is no part of what was measured.
    """
    if os.getpid() != _pid or not os.environ.get("WHYIDLE_TRUTH"):
        return
    main = sys.modules["__main__"]
    ports = PORTS | getattr(main, "PORTS_OF_ITS_OWN", {})
    _delays[_pid] = run_delay()
    account = {
        "threads": _threads,
        "findings": [
            {"kind": kind, "function": function, "port": port and ports.get(port)}
            for kind, function, port in getattr(main, "EXPECT", {}).get("findings", [])
        ],
        "ports": ports,
        "delay_s": _delays,
        "stolen_s": stolen() - _stolen,
        "wall_s": time.monotonic() - _started,
    }
    Path(os.environ["WHYIDLE_TRUTH"]).write_text(json.dumps(account))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1 if getattr(sys, "last_value", None) else 0)


atexit.register(write)
