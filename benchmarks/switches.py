"""What one context switch costs, by the kernel's own accounting (kernel.bpf_stats_enabled)."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.measure import Row, alternate, judge
from whyidle_daemon import libbpf
from whyidle_daemon.kernel import Kernel
from whyidle_probes.loader import Probes, load_probes

ROUNDS = 5
TRACEPOINT = Path("/sys/kernel/tracing/events/sched/sched_switch")  # what bpftrace needs
PING_PONG = """
import os, sys
sys.stdin.readline()
a, b = os.pipe(); c, d = os.pipe()
if os.fork() == 0:
    os.close(b); os.close(c)
    while os.read(a, 1): os.write(d, b'x')
    os._exit(0)
for _ in range(50000): os.write(b, b'x'); os.read(c, 1)
os._exit(0)
"""
GOALS = {"tracked": 500.0, "untracked": 120.0}
OFF_CPU = """
BEGIN { printf("up\\n"); }
tracepoint:sched:sched_switch {
    if (args->prev_state) { @start[args->prev_pid] = nsecs; }
    if (@start[args->next_pid]) {
        @off[args->next_comm] = sum(nsecs - @start[args->next_pid]); delete(@start[args->next_pid]);
    }
}
"""


def run() -> tuple[str, list[Row]]:
    """Title and rows: nanoseconds of our program per sched_switch, for a target and for everybody else."""
    probes = load_probes()
    kernel = Kernel(probes, lambda _: None)
    stats = libbpf.library().bpf_enable_stats(0)  # on as long as the descriptor is open
    runs: dict[str, Callable[[], float]] = {
        "untracked": lambda: _cost(kernel, probes, False),
        "tracked": lambda: _cost(kernel, probes, True),
    }
    if shutil.which("bpftrace") and TRACEPOINT.exists():
        runs["bpftrace"] = _peer
    try:
        found = {name: statistics.median(costs) for name, costs in alternate(runs, ROUNDS).items()}
    finally:
        os.close(stats)
        kernel.close()
    rows = [
        Row(
            f"sched_switch of {'a' if name == 'tracked' else 'an'} {name} thread",
            f"{found[name]:.0f} ns",
            f"≤{goal:.0f} ns",
            judge(found[name] <= goal),
        )
        for name, goal in reversed(GOALS.items())
    ]
    peer = f"{found['bpftrace']:.0f} ns" if "bpftrace" in found else "no bpftrace, or no tracefs"
    rows.append(Row("for comparison: an off-CPU one-liner of bpftrace", peer, "", ""))
    return "One context switch (a pipe ping-pong, by the kernel's BPF statistics)", rows


def _cost(kernel: Kernel, probes: Probes, tracked: bool) -> float:
    def begin(pid: int) -> None:
        if tracked:
            kernel.track([pid], 1)

    try:
        return _ping_pong(probes.program("wi_sched_switch"), begin)
    finally:
        kernel.untrack(1)


def _peer() -> float:
    """The same of a bpftrace script that sums time off the CPU by command."""
    before = _programs()
    command = ["bpftrace", "-B", "line", "-e", OFF_CPU]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as peer:
        assert peer.stdout
        try:
            while (line := peer.stdout.readline()) and line != "up\n":
                pass
            (program,) = [n for n, name in (_programs().items() - before.items()) if "switch" in name]
            fd = libbpf.library().bpf_prog_get_fd_by_id(program)
            try:
                return _ping_pong(fd, lambda _: None)
            finally:
                os.close(fd)
        finally:
            peer.terminate()


def _programs() -> dict[int, str]:
    """Names of all loaded programs by their kernel ids."""
    found = {}
    for number in libbpf.program_ids():
        fd = libbpf.library().bpf_prog_get_fd_by_id(number)
        if fd >= 0:
            found[number] = libbpf.program_info(fd).name
            os.close(fd)
    return found


def _ping_pong(program: int, begin: Callable[[int], None]) -> float:
    """Nanoseconds per run of a program while two processes wake each other."""
    with subprocess.Popen([sys.executable, "-c", PING_PONG], stdin=subprocess.PIPE) as child:
        begin(child.pid)
        before = libbpf.program_info(program)
        assert child.stdin
        child.stdin.write(b"\n")
        child.stdin.close()
        child.wait()
        after = libbpf.program_info(program)
    return (after.run_ns - before.run_ns) / (after.runs - before.runs)
