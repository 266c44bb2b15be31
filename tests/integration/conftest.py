"""Real probes, loaded once per run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness import Probe, Program, Runner
from whyidle_daemon.kernel import Kernel
from whyidle_probes.events import Event
from whyidle_probes.loader import load_probes


@pytest.fixture(scope="session")
def loaded() -> Iterator[tuple[Kernel, list[Event]]]:
    seen: list[Event] = []
    kernel = Kernel(load_probes(), seen.append)
    yield kernel, seen
    kernel.close()


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
