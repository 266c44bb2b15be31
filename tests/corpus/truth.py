"""What a corpus program knows of itself, by its own clock; imported by the programs alone.

A wait is what ``time.monotonic`` says between its two ends, less the CPU time that the thread used in between
and less its time in the run queue (``schedstat``, the kernel's own account): what is left is time asleep. No
frame of this module is on the stack during a wait.

At the program's end, JSON goes to ``$WHYIDLE_TRUTH``: ``{"threads": {tid: {state: seconds}}, "findings":
[{kind, function, port}], "wall_s", "ports", "delay_s": {tid: seconds}}``. A state ``"a|b"`` is the sum of
both. ``delay_s`` is how long a thread stood in the run queue: what a busy host adds to any program.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

PORTS: dict[str, int] = json.loads(os.environ.get("WHYIDLE_PORTS", "{}"))
HTTP = f"http://127.0.0.1:{PORTS.get('http', 0)}"
OTHER = f"http://127.0.0.1:{PORTS.get('other', 0)}"

_started = time.monotonic()
_pid = os.getpid()
_lock = threading.Lock()
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
    with _lock:
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
        self.seconds = asleep_clock() - self._began
        add(self.state, self.seconds)
        _delays[threading.get_native_id()] = run_delay()


def own_cpu(tid: int | None = None) -> None:
    """All the CPU time of this thread so far is ``running``."""
    add("running", time.thread_time(), tid)


def cpu_for(seconds: float) -> None:
    """Compute for that much CPU time."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def write() -> None:
    """Write the account down. Called by itself at the end of the main program."""
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
        "wall_s": time.monotonic() - _started,
    }
    Path(os.environ["WHYIDLE_TRUTH"]).write_text(json.dumps(account))


atexit.register(write)
