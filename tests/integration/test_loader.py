"""Loading: one clear error or everything attached, and nothing left behind in either case."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness import wait_until
from whyidle_daemon import libbpf
from whyidle_probes.loader import PROGRAMS, LoaderError, ProbeConfig, load_probes

pytestmark = pytest.mark.bpf


def programs_of(pid: int) -> set[int]:
    """Kernel ids of the programs that a process holds: others on this machine may have theirs meanwhile."""
    found: set[int] = set()
    for path in Path(f"/proc/{pid}/fdinfo").iterdir():
        lines = path.read_text().splitlines() if path.exists() else []
        kinds = dict(line.split(":", 1) for line in lines if ":" in line)
        if "prog_type" in kinds:
            found.add(int(kinds["prog_id"]))
    return found


def gone(programs: set[int]) -> bool:
    return not programs & set(libbpf.program_ids())


def test_everything_loads_and_closing_removes_it() -> None:
    """All programs attach, and are gone when their descriptors are closed."""
    before = programs_of(os.getpid())
    probes = load_probes()
    loaded = programs_of(os.getpid()) - before
    types = Path("/sys/kernel/btf/vmlinux").read_bytes()
    tracepoints = [name for _, kind, name, _ in PROGRAMS if kind in ("tracepoint", "on demand")]
    absent = [name for name in tracepoints if f"\0btf_trace_{name}\0".encode() not in types]
    assert [name for name in probes.missing if name in tracepoints] == absent
    wakeups = probes.throttling == "queue"  # one program more
    assert len(loaded) == len(PROGRAMS) - len(absent) + wakeups
    assert not gone(loaded)
    probes.close()
    wait_until(lambda: gone(loaded), "the kernel to free the programs")


def test_sigkill_leaves_nothing_attached() -> None:
    """A daemon that is killed at any instant leaves no program behind."""
    code = "import sys, time; from whyidle_probes.loader import load_probes; p = load_probes(); print('up'); "
    child = subprocess.Popen(
        [sys.executable, "-u", "-c", code + "time.sleep(60)"], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout
    assert child.stdout.readline() == "up\n"
    loaded = programs_of(child.pid)
    assert loaded
    assert not gone(loaded)
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    wait_until(lambda: gone(loaded), "the kernel to free the programs")


@pytest.mark.parametrize(
    ("config", "code", "words"),
    [
        (ProbeConfig(system_python=sys.executable), "no_bcc", "bcc"),
        (ProbeConfig(system_python="/nonexistent/python3"), "no_python", "/nonexistent/python3"),
        (ProbeConfig(system_python="/bin/true"), "crashed", "without an answer"),
        (
            ProbeConfig(programs=(*PROGRAMS, ("wi_fork", "tracepoint", "no_such_tracepoint", False))),
            "no_tracepoint",
            "no_such_tracepoint",
        ),
        (ProbeConfig(programs=(("wi_fork", "tracepoint", "sched_switch", False),)), "verifier", "wi_fork"),
    ],
)
def test_failures_are_one_clear_error(config: ProbeConfig, code: str, words: str) -> None:
    """Each reason why loading fails has its own code, words and fix, and leaves nothing attached."""
    before = programs_of(os.getpid())
    with pytest.raises(LoaderError) as caught:
        load_probes(config)
    assert caught.value.code == code
    assert words in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert caught.value.fix
    assert programs_of(os.getpid()) == before


def test_an_optional_program_may_be_missing() -> None:
    """What a kernel lacks is named, and the rest works."""
    probes = load_probes(ProbeConfig(programs=(*PROGRAMS, ("wi_fork", "tracepoint", "no_such", True))))
    assert "no_such" in probes.missing
    probes.close()


def test_without_root_it_says_so(tmp_path: Path) -> None:
    """An ordinary user gets one line and what to do."""
    code = (
        "import os; from whyidle_probes.loader import LoaderError, load_probes\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "try: load_probes()\n"
        "except LoaderError as error: print(error.code, '|', error, '|', error.fix)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("no_permission | loading kernel probes needs root")
    assert done.stderr == ""
