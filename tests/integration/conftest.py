"""Real probes, loaded once per run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import Probe, Program, Runner, kernel_of
from whyidle_daemon.kernel import Kernel
from whyidle_probes.events import Event
from whyidle_probes.loader import load_probes


@pytest.fixture(scope="session")
def loaded() -> Iterator[tuple[Kernel, list[Event]]]:
    with kernel_of(load_probes()) as kernel_and_seen:
        yield kernel_and_seen


@pytest.fixture
def probe(loaded: tuple[Kernel, list[Event]], request: pytest.FixtureRequest) -> Iterator[Probe]:
    kernel, seen = loaded
    counter = getattr(request.session, "target_number", 0) + 1
    request.session.target_number = counter  # type: ignore[attr-defined]
    yield Probe(kernel, seen, counter)
    kernel.untrack(counter)
    kernel.drain_waits()
    seen.clear()


@pytest.fixture
def programs() -> Iterator[list[Program]]:
    started: list[Program] = []
    yield started
    for program in started:
        program.close()


@pytest.fixture
def run_observed(probe: Probe, programs: list[Program]) -> Runner:
    return Runner(probe, programs)


@pytest.fixture
def throttled_group() -> Iterator[Path]:
    """A cgroup with a fifth of one CPU, v1 or v2."""
    root = Path("/sys/fs/cgroup/cpu")
    name = f"whyidle-test-{os.getpid()}"
    if (root / "cpu.cfs_quota_us").exists():
        group = root / name
        group.mkdir()
        (group / "cpu.cfs_period_us").write_text("100000")
        (group / "cpu.cfs_quota_us").write_text("20000")
    elif "cpu" in _read(Path("/sys/fs/cgroup/cgroup.subtree_control")).split():
        group = Path("/sys/fs/cgroup") / name
        group.mkdir()
        (group / "cpu.max").write_text("20000 100000")
    else:
        pytest.skip("no cgroup with a cpu controller can be made here")
    yield group
    group.rmdir()


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""
