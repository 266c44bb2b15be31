"""A loop of system calls that do not block: what does watching it cost?

Nothing is what it should cost: whyidle hooks no system call. The peers hook every one.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.measure import BIN, OUT, Row, alternate, compile_c, judge, ratio, say, spread, tool
from whyidle_probes.loader import CHILD, SYSTEM_PYTHON

CALLS = 2_000_000
SLOW_CALLS = 20_000
ROUNDS = 7
GOAL = 1.05
BPFTRACE = (
    "tracepoint:raw_syscalls:sys_enter /pid == PID/ {{ @s[tid] = nsecs; }} "
    "tracepoint:raw_syscalls:sys_exit /@s[tid]/ {{ @t[args->id] = hist(nsecs - @s[tid]); delete(@s[tid]); }}"
).replace("PID", "{pid}")
# bcc's own tools want kernel headers, which no version of them compiles against on a new kernel: they get
# the same BTF-made ones as our probes, and an empty file for the one more that they ask for.
HEADERS = """
import sys; sys.path.insert(0, sys.argv[1])
from pathlib import Path
from btf import KernelTypes, open_libbpf
from headers import write_headers
write_headers(Path(sys.argv[2]), KernelTypes(open_libbpf()))
(Path(sys.argv[2]) / "include/linux/sched.h").touch()
"""


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
        headers = str(_headers())
        runs["bcc syscount -L"] = lambda: _attached(storm, [syscount, "-L", "-p", "{pid}"], headers)
    if strace := tool("strace"):
        runs["strace -c"] = lambda: under(strace, "-c", "-o", "/dev/null", calls=SLOW_CALLS)
    if perf := tool("perf"):
        runs["perf trace -s"] = lambda: under(perf, "trace", "-s", "-o", "/dev/null", calls=SLOW_CALLS)
    if bpftrace := tool("bpftrace"):
        runs["bpftrace enter/exit"] = lambda: _attached(storm, [bpftrace, "-e", BPFTRACE])
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


def _headers() -> Path:
    folder = OUT / "headers"
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run([SYSTEM_PYTHON, "-c", HEADERS, str(CHILD), str(folder)], check=True)
    return folder


def _attached(storm: str, command: list[str], headers: str = "") -> float:
    """Start the storm held back, attach a tool to it, let it go once the tool's own output says it is up."""
    pipe = subprocess.PIPE
    env = {**os.environ, "PYTHONUNBUFFERED": "1", "BCC_KERNEL_SOURCE": headers}
    with subprocess.Popen([storm, str(CALLS)], stdin=pipe, stdout=pipe, text=True) as child:
        words = [word.format(pid=child.pid) for word in command]
        assert child.stdin
        assert child.stdout
        try:
            with subprocess.Popen(words, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=env) as peer:
                assert peer.stdout
                if not peer.stdout.readline():
                    raise OSError(f"{command[0]} ended at once")
                time.sleep(1)
                child.stdin.write("\n")
                child.stdin.flush()
                value = float(child.stdout.readline())
                peer.terminate()
        finally:
            child.kill()
    return value
