"""CUDA, observed: a real libcuda ABI with simulated streams behind it, truth by its own clock."""

from __future__ import annotations

import itertools
import json
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import report_schema

from harness import Probe, Program, wait_until
from harness_cli import SearchServer, load, whyidle
from simulators.cuda import JOB, build_libcuda, truth
from whyidle_daemon.libraries import EngineLibraries
from whyidle_daemon.proc import Proc
from whyidle_probes.events import CONTEXT_CUDA, Engine, Gap, Wait, is_cuda

pytestmark = pytest.mark.bpf
NS = 1_000_000_000
EDGE_S = 0.005

AGENT = (
    JOB
    + """
import urllib.request
def search_web(url):
    return urllib.request.urlopen(url).read()
for _ in range(5):
    for _ in range(20):
        launch(2)
    sync()
    search_web(sys.argv[2])
launch(5); sync()
"""
)


@pytest.fixture(scope="session")
def libcuda(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_libcuda(tmp_path_factory.mktemp("libcuda"))


def gaps_of(busy: list[tuple[int, int]], least_ns: int) -> list[tuple[int, int]]:
    between = ((a[1], b[0]) for a, b in itertools.pairwise(busy))
    return [(start, end) for start, end in between if end - start >= least_ns]


@pytest.mark.parametrize("how", ["block", "spin"])
def test_main_job(how: str, libcuda: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that waits for the network between kernels: gaps to 5 ms, the guilty line, live as replayed."""
    (tmp_path / "agent.py").write_text(AGENT)
    monkeypatch.setenv("WHYIDLE_SIM_TRUTH", str(tmp_path / "truth"))
    monkeypatch.setenv("WHYIDLE_SIM_SYNC", how)
    with SearchServer(tmp_path, 0.15) as server:
        done = whyidle(
            *("run", "--json", tmp_path / "report.json", "--record", tmp_path / "job.rec", "--"),
            *("python3", tmp_path / "agent.py", libcuda, server.url + "/search?q=x"),
        )
        wait_until(lambda: len(server.held_s()) == 5, "the server's log")
        held = server.held_s()
    assert done.returncode == 0, done.stderr
    report = load(tmp_path / "report.json")
    report_schema.check(report)
    (engine,) = report["engines"]
    assert (engine["kind"], engine["simulated"]) == ("cuda", True)
    assert engine["id"].startswith(f"cuda:{engine['pid']}:")
    busy = truth(tmp_path / "truth")
    assert engine["busy_s"] == pytest.approx(sum(end - start for start, end in busy) / NS, abs=EDGE_S * 6)
    expected = gaps_of(busy, 50_000_000)
    assert len(expected) == 5
    found = sorted((gap for gap in report["gaps"] if not gap["open"]), key=lambda gap: gap["start_s"])
    found = [gap for gap in found if gap["duration_s"] > 0.05]
    origin = expected[0][0] / NS - found[0]["start_s"]  # the report counts from its own start
    for gap, (start, end) in zip(found, expected, strict=True):
        assert gap["start_s"] + origin == pytest.approx(start / NS, abs=EDGE_S)
        assert gap["start_s"] + gap["duration_s"] + origin == pytest.approx(end / NS, abs=EDGE_S)
        worst = max(gap["causes"], key=lambda cause: cause["share"])
        assert (worst["state"], worst["function"]) == ("network", "search_web")
    assert engine["idle_attributed_s"] >= 0.95 * engine["idle_s"]
    first = report["findings"][0]
    assert (first["kind"], first["function"]) == ("blocking_network_call", "search_web")
    assert first["engine_idle_s"] == pytest.approx(sum(held), rel=0.1)
    (main,) = [thread for thread in report["threads"] if thread["tid"] == report["target"]["pid"]]
    waited = main["states"]["gpu_wait"] + main["states"].get("runqueue", 0)  # a spinner may be preempted
    assert main["states"]["gpu_wait"] > 0
    assert waited >= 0.8 * engine["busy_s"]
    done = whyidle("report", tmp_path / "job.rec", "--json")
    assert done.returncode == 0, done.stderr
    again = json.loads(done.stdout)
    for part in ("engines", "gaps", "idle_by_cause", "findings", "threads"):
        assert again[part] == report[part]


BURSTS = (
    JOB
    + """
import urllib.request
launches = [0]
takes = c.c_uint64(20_000)  # longer than a launch takes to call: a synchronisation has to wait
arguments = (c.c_void_p * 1)(c.addressof(takes))
kernel = cuda.cuLaunchKernel
end = time.monotonic() + 3
while time.monotonic() < end:
    until = time.monotonic() + 0.3
    while time.monotonic() < until:
        for _ in range(100):
            kernel(None, 1, 1, 1, 1, 1, 1, 0, stream, arguments, None)
        sync()
    launch(1)
    sync()
    time.sleep(0.1)
"""
)


def test_too_many_launches(libcuda: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the rate the probes come off, the report says for how long, the gaps are found all the same."""
    (tmp_path / "job.py").write_text(BURSTS)
    monkeypatch.setenv("WHYIDLE_SIM_TRUTH", str(tmp_path / "truth"))
    report_file = tmp_path / "report.json"
    done = whyidle("run", "--json", report_file, "--", "python3", tmp_path / "job.py", libcuda)
    assert done.returncode == 0, done.stderr
    report = load(report_file)
    (engine,) = report["engines"]
    assert 0.5 < engine["launches_unseen_s"] <= engine["busy_s"] + engine["idle_s"]
    expected = gaps_of(truth(tmp_path / "truth"), 90_000_000)
    found = [gap for gap in report["gaps"] if gap["duration_s"] > 0.09 and not gap["open"]]
    assert len(found) == len(expected) > 3
    found.sort(key=lambda gap: gap["start_s"])
    for gap, (start, end) in zip(found, expected, strict=True):
        assert gap["duration_s"] == pytest.approx((end - start) / NS, abs=2 * EDGE_S)
        assert max(gap["causes"], key=lambda cause: cause["share"])["state"] == "sleep"


CONTEXTS = (
    JOB
    + """
import os, threading
ROUNDS = 4
def fast():
    mine = c.c_void_p()
    cuda.cuCtxCreate_v2(c.byref(mine), 0, 0)
    own = c.c_void_p()
    cuda.cuStreamCreate(c.byref(own), 1)
    while not done:
        launch(20, own); sync(own)
done = []
worker = threading.Thread(target=fast)
worker.start()
first = context
for number in range(ROUNDS):
    cuda.cuCtxSetCurrent(first)
    launch(30); sync(); time.sleep(0.2)
launch(1); sync()
other = c.c_void_p()
cuda.cuCtxCreate_v2(c.byref(other), 0, 0)  # which makes it current, on top of the first
cuda.cuCtxPopCurrent_v2(c.byref(other))
launch(1); sync()
done.append(1)
worker.join()
os.write(1, b"%d %d\\n" % (first.value, threading.get_native_id()))  # whole: print() may write it in pieces
"""
)


def test_each_context_of_each_process_is_an_engine(libcuda: Path, tmp_path: Path) -> None:
    """Two processes of two contexts: four engines, each with its own thread, its own busy and idle time."""
    (tmp_path / "job.py").write_text(CONTEXTS)
    both = f"python3 {tmp_path}/job.py {libcuda} & python3 {tmp_path}/job.py {libcuda}; wait"
    report_file = tmp_path / "report.json"
    done = whyidle("run", "--json", report_file, "--", "sh", "-c", both)
    assert done.returncode == 0, done.stderr
    report = load(report_file)
    report_schema.check(report)
    engines = {engine["id"]: engine for engine in report["engines"]}
    assert len(engines) == 4
    assert all(engine["kind"] == "cuda" and engine["simulated"] for engine in engines.values())
    said = [line.split() for line in done.stdout.splitlines()[:2]]
    assert [len(line) for line in said] == [2, 2], (done.stdout, done.stderr)
    assert len({pid for _, pid in said}) == 2
    for context, pid in said:
        slow = engines.pop(f"cuda:{pid}:{int(context):x}")
        assert slow["drivers"] == [int(pid)]
        assert slow["calls"] == 6
        assert slow["idle_s"] >= 4 * 0.2
        rows = [row for row in report["idle_by_cause"] if row["pid"] == int(pid) and row["state"] == "sleep"]
        assert sum(row["seconds"] for row in rows) >= 4 * 0.2
        (fast,) = [engine for engine in engines.values() if engine["pid"] == int(pid)]
        assert int(pid) not in fast["drivers"]
        assert fast["busy_s"] > fast["idle_s"]
        gaps = [gap for gap in report["gaps"] if gap["engine"] == slow["id"] and gap["duration_s"] >= 0.19]
        assert len(gaps) == 4


STREAMS = (
    JOB
    + """
other = c.c_void_p()
cuda.cuStreamCreate(c.byref(other), 1)
launch(1); sync()
sys.stdin.readline()
launch(30, stream); launch(120, other)
sync(stream)  # the other stream is busy still
sync(other)
time.sleep(0.1)
sync(stream)  # finds nothing to wait for
time.sleep(0.1)
launch(1, name="cuLaunchKernel_ptsz"); cuda.cuStreamSynchronize_ptsz(stream)
print("done", flush=True)
sys.stdin.readline()
"""
)


MAPS = "cuda = c.CDLL(sys.argv[1])"


def in_two_parts(
    code: str,
    libcuda: Path,
    probe: Probe,
    programs: list[Program],
    between: Callable[[EngineLibraries], None] = lambda libraries: None,
) -> Engine:
    """Run a program to its second line of input, the first when its first kernel is over; its engine then."""
    assert MAPS in code
    code = code.replace(MAPS, f"{MAPS}\nprint('mapped', flush=True)\nsys.stdin.readline()")
    program = Program(code, str(libcuda))
    programs.append(program)
    probe.track(program.pid)
    libraries = EngineLibraries(probe.kernel.attach_functions, Proc())
    try:
        program.go()
        assert program.line() == "mapped"
        assert libraries.scan(program.pid)
        assert libraries.cuda == {program.pid: True}
        program.go()

        def engine() -> Engine | None:
            return next(iter(probe.kernel.engines(probe.number)), None)

        wait_until(lambda: (found := engine()) is not None and not found.busy, "the first kernel")
        between(libraries)
        program.go()
        assert program.line() == "done"
        (last,) = probe.kernel.engines(probe.number)
        return last
    finally:
        libraries.close()


def test_streams(libcuda: Path, probe: Probe, programs: list[Program]) -> None:
    """An engine is idle from the last stream's end; a synchronisation without work cuts no gap in two."""
    last = in_two_parts(STREAMS, libcuda, probe, programs)
    assert is_cuda(last.context)
    assert last.context != CONTEXT_CUDA  # which one is known
    assert (last.calls, last.busy) == (4, False)
    assert last.busy_ns >= 121_000_000
    gaps = [event for event in probe.events() if isinstance(event, Gap)]
    slept = gaps[-1]
    assert slept.ns is not None
    assert slept.end_ns - slept.start_ns >= 200_000_000
    assert slept.ns[Wait.SLEEP] >= 200_000_000


LATE = (
    JOB
    + """
launch(1); sync()
sys.stdin.readline()
for _ in range(2):
    time.sleep(0.2)
    cuda.cuLaunchHostFunc(stream, None, c.c_void_p(1_000_000))  # which has no probe
    sync()
time.sleep(0.2)
launch(1); sync()
print("done", flush=True)
sys.stdin.readline()
"""
)


def test_a_short_wait_after_a_long_idle_time_was_not_all_of_it(
    libcuda: Path, probe: Probe, programs: list[Program]
) -> None:
    """What ends as soon as somebody waits for it had not been busy for two hundred times as long."""
    last = in_two_parts(LATE, libcuda, probe, programs)
    gaps = [event for event in probe.events() if isinstance(event, Gap)]
    assert [gap.ns is not None and gap.ns[Wait.SLEEP] >= 200_000_000 for gap in gaps] == [True] * 3
    assert last.busy_ns < 200_000_000


UNSEEN = (
    JOB
    + """
launch(1, None); sync(None)
sys.stdin.readline()
for _ in range(3):
    time.sleep(0.2)
    end = time.monotonic() + 0.1
    while time.monotonic() < end: launch(0.02, None)
    assert cuda.cuMemcpyDtoH_v2(None, None, 64) == 0
print("done", flush=True)
sys.stdin.readline()
"""
)


def test_launches_that_had_no_probes_end_a_gap(libcuda: Path, probe: Probe, programs: list[Program]) -> None:
    """A copy that keeps its probe comes after them: idle was while the driver slept, not while it ran."""

    def take_off(libraries: EngineLibraries) -> None:
        probe.kernel.launches_seen(None)
        libraries.set_probes("launch", False)
        wait_until(
            lambda: not any(t.name == "detach" for t in threading.enumerate()), "no probes on launches"
        )

    try:
        last = in_two_parts(UNSEEN, libcuda, probe, programs, take_off)
    finally:
        probe.kernel.launches_seen(0)
    gaps = [event for event in probe.events() if isinstance(event, Gap)]
    assert len(gaps) == 3
    for gap in gaps:
        assert gap.ns is not None
        assert gap.ns[Wait.RUNNING] == 0
        assert gap.ns[Wait.SLEEP] >= 200_000_000
        assert sum(gap.ns) == pytest.approx(gap.end_ns - gap.start_ns, abs=1_000_000)
    assert last.busy_ns >= 300_000_000


QUEUED = (
    JOB.replace("c.byref(context), 0, 0", "c.byref(context), 2, 0")
    + """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
launch(1); sync()
sys.stdin.readline()
parent = os.getpid()
if not os.fork():
    while os.getppid() == parent: pass  # has the CPU whenever it is given away
    os._exit(0)
launch(1); sync()
end = time.monotonic() + 0.2
while time.monotonic() < end: sync()  # finds nothing to wait for, and gives the CPU away
launch(1); sync()
print("done", flush=True)
sys.stdin.readline()
"""
)


def test_who_waits_for_a_cpu_in_a_synchronisation_waits_for_no_gpu(
    libcuda: Path, probe: Probe, programs: list[Program]
) -> None:
    """It is gap, although synchronisations took as long as somebody else's time slice.

    Half of 200 ms goes to the other. An interrupt or the hypervisor may hold up a synchronisation on its CPU,
    which nobody can tell from waiting for the GPU: that cuts the gap, and takes one time slice out of it.
    """
    in_two_parts(QUEUED, libcuda, probe, programs)
    gaps = [event for event in probe.events() if isinstance(event, Gap)]
    assert sum(gap.ns[Wait.RUNQUEUE] for gap in gaps if gap.ns is not None) > 50_000_000


LLAMA = """
#define U unsigned
int (*to_launch)(void *, U, U, U, U, U, U, U, void *, void **, void **);
int (*to_sync)(void *);
int llama_decode(void *context)
{
	unsigned long long takes = 20000000;
	void *arguments[] = { &takes };
	to_launch(context, 1, 1, 1, 1, 1, 1, 0, (void *)0, arguments, (void *)0);
	return to_sync((void *)0);
}
"""

TWO = (
    JOB
    + """
llama = c.CDLL(sys.argv[2])
for name, function in (("to_launch", cuda.cuLaunchKernel), ("to_sync", cuda.cuStreamSynchronize)):
    c.c_void_p.in_dll(llama, name).value = c.cast(function, c.c_void_p).value
print("mapped", flush=True)
sys.stdin.readline()
for _ in range(3):
    llama.llama_decode(c.c_void_p(4096))
print("done", flush=True)
sys.stdin.readline()
"""
)


def test_llama_on_cuda_counts_once(
    libcuda: Path, tmp_path: Path, probe: Probe, programs: list[Program]
) -> None:
    """What llama_decode launches is llama.cpp's work: one engine; its thread still waits for the GPU."""
    source, library = tmp_path / "llama.c", tmp_path / "libllama.so"
    source.write_text(LLAMA)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    program = Program(TWO, str(libcuda), str(library))
    programs.append(program)
    probe.track(program.pid)
    libraries = EngineLibraries(probe.kernel.attach_functions, Proc())
    try:
        program.go()
        assert program.line() == "mapped"
        assert libraries.scan(program.pid)
        program.go()
        assert program.line() == "done"
        (engine,) = probe.kernel.engines(probe.number)
        thread = probe.kernel.thread(program.pid)
    finally:
        libraries.close()
    assert (engine.context, engine.calls) == (4096, 3)
    assert thread is not None
    assert thread.ns[Wait.GPU] >= 50_000_000
