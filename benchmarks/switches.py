"""What one context switch costs, by the kernel's own accounting (kernel.bpf_stats_enabled)."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
import sys

from benchmarks.measure import Row, alternate, judge
from whyidle_daemon import libbpf
from whyidle_daemon.kernel import Kernel
from whyidle_probes.loader import Probes, load_probes

ROUNDS = 5
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


def run() -> tuple[str, list[Row]]:
    """Title and rows: nanoseconds of our program per sched_switch, for a target and for everybody else."""
    probes = load_probes()
    kernel = Kernel(probes, lambda _: None, os.getpid())
    stats = libbpf.library().bpf_enable_stats(0)  # on as long as the descriptor is open
    try:
        found = alternate(
            {
                "untracked": lambda: _cost(kernel, probes, False),
                "tracked": lambda: _cost(kernel, probes, True),
            },
            ROUNDS,
        )
    finally:
        os.close(stats)
        kernel.close()
    rows = []
    for name, values in found.items():
        middle = sorted(values)[len(values) // 2]
        goal = GOALS[name]
        rows.append(
            Row(f"sched_switch of an {name} thread" if name[0] == "u" else f"sched_switch of a {name} thread",
                f"{middle:.0f} ns", f"≤{goal:.0f} ns", judge(middle <= goal))
        )  # fmt: skip
    return "One context switch (a pipe ping-pong, by the kernel's BPF statistics)", rows


def _cost(kernel: Kernel, probes: Probes, tracked: bool) -> float:
    with subprocess.Popen([sys.executable, "-c", PING_PONG], stdin=subprocess.PIPE) as child:
        if tracked:
            kernel.track([child.pid], 1)
        before = _counters(probes)
        assert child.stdin
        child.stdin.write(b"\n")
        child.stdin.close()
        child.wait()
        after = _counters(probes)
    kernel.untrack(1)
    return (after[0] - before[0]) / (after[1] - before[1])


def _counters(probes: Probes) -> tuple[int, int]:
    info, size = ctypes.create_string_buffer(256), ctypes.c_uint32(256)
    libbpf.library().bpf_obj_get_info_by_fd(probes.program("wi_sched_switch"), info, ctypes.byref(size))
    run_ns, count = struct.unpack_from("<QQ", info, 192)
    return run_ns, count
