"""A loop of system calls that do not block: what does watching it cost?

Nothing is what it should cost: whyidle hooks no system call. The peers hook every one.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.measure import BIN, Row, alternate, compile_c, judge, ratio, say, spread, tool

CALLS = 2_000_000
SLOW_CALLS = 20_000
ROUNDS = 7
GOAL = 1.05
BPFTRACE = (
    "tracepoint:raw_syscalls:sys_enter /pid == cpid/ { @s[tid] = nsecs; } "
    "tracepoint:raw_syscalls:sys_exit /@s[tid]/ { @t[args->id] = hist(nsecs - @s[tid]); delete(@s[tid]); }"
)


def run() -> tuple[str, list[Row]]:
    """Title and rows."""
    storm = str(compile_c("storm"))

    def under(*prefix: str, calls: int = CALLS) -> float:
        with tempfile.TemporaryFile("w+") as out:
            subprocess.run(
                [*prefix, storm, str(calls)], input=b"\n", stdout=out, stderr=subprocess.DEVNULL, check=True
            )
            out.seek(0)
            return next(float(line) for line in out.read().splitlines() if _is_number(line))

    runs = {
        "bare": under,
        "whyidle run": lambda: under(str(BIN / "whyidle"), "run", "--json", "/dev/null", "--"),
    }
    syscount = tool("syscount-bpfcc", "syscount")
    if syscount:
        runs["bcc syscount -L"] = lambda: _attached(storm, [syscount, "-L", "-p"])
    if strace := tool("strace"):
        runs["strace -c"] = lambda: under(strace, "-c", "-o", "/dev/null", calls=SLOW_CALLS)
    if perf := tool("perf"):
        runs["perf trace -s"] = lambda: under(perf, "trace", "-s", "-o", "/dev/null", calls=SLOW_CALLS)
    if bpftrace := tool("bpftrace"):
        runs["bpftrace enter/exit"] = lambda: _bpftrace(bpftrace, storm)
    for name, one in list(runs.items()):
        try:
            one()
        except (subprocess.SubprocessError, OSError, StopIteration) as error:
            say(f"  {name} does not run here: {error}")
            del runs[name]
    found = alternate(runs, ROUNDS)
    rows = []
    for name, values in found.items():
        times = ratio(values, found["bare"])
        goal, verdict = ("", "")
        if name == "whyidle run":
            goal, verdict = f"≤{GOAL}x", judge(times <= GOAL)
        rows.append(Row(name, f"{times:.3g}x of bare; {spread(values)} ns per call", goal, verdict))
    return "A loop of system calls that do not block", rows


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _attached(storm: str, command: list[str]) -> float:
    """Start the storm held back, attach a tool to it, let it go once the tool's own output says it is up."""
    pipe = subprocess.PIPE
    with (
        subprocess.Popen([storm, str(CALLS)], stdin=pipe, stdout=pipe, text=True) as child,
        subprocess.Popen(
            [*command, str(child.pid)], stdout=pipe, stderr=subprocess.DEVNULL, text=True
        ) as peer,
    ):
        assert peer.stdout
        assert child.stdin
        assert child.stdout
        peer.stdout.readline()
        time.sleep(0.5)
        child.stdin.write("\n")
        child.stdin.flush()
        value = float(child.stdout.readline())
        peer.terminate()
    return value


def _bpftrace(bpftrace: str, storm: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "ns"
        wrapper = Path(folder) / "storm.sh"
        wrapper.write_text(f"#!/bin/sh\necho | exec {storm} {CALLS} >{out}\n")
        script = BPFTRACE.replace("/pid == cpid/", '/comm == "storm"/')
        wrapper.chmod(0o755)
        subprocess.run(
            [bpftrace, "-c", str(wrapper), "-e", script],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
            timeout=120,
        )
        return float(out.read_text())
