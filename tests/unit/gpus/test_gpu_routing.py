"""Each target learns of the GPUs that it uses, and of nobody else's."""

from __future__ import annotations

from typing import Any

from whyidle_daemon.facts import EngineSpan, GpuFacts, GpuSample, GpuUse, Snapshot
from whyidle_daemon.gpus.routing import Routes
from whyidle_daemon.gpus.sampler import GpuProcesses
from whyidle_daemon.gpus.samples import ProcessRow
from whyidle_daemon.rebase import Base

GPU = GpuFacts("nvml:0", 1, 0, "A", "1", 1, "nvml")
OWNERS = {10: 1, 11: 1, 20: 2}


def span(start: int, pid: int = 0) -> EngineSpan:
    return EngineSpan("nvml:0", start, start + 10, 5, 0, 10, pid)


def looked(ns: int, *pids: int) -> GpuProcesses:
    return GpuProcesses("nvml:0", ns, tuple(ProcessRow(pid, 100) for pid in pids))


def test_a_target_learns_of_a_gpu_when_it_uses_it() -> None:
    """Facts at once; samples from its first use on, with those since the last look before it."""
    routes = Routes(OWNERS.get)
    one: list[Any] = []
    two: list[Any] = []
    routes.add(1, one.append)
    routes.route([GPU, span(0), looked(15), span(10), span(20), looked(35, 10, 99), span(30)])
    routes.add(2, two.append)
    routes.route([GpuSample("nvml:0", 41, 1, 2, 3), span(40)])
    assert one == [
        GPU,
        GpuUse("nvml:0", 10, 35, 100, None, 1),
        span(20),
        span(30),
        GpuSample("nvml:0", 41, 1, 2, 3),
        span(40),
    ]
    assert two == [GPU]


def test_a_target_that_ended_is_told_nothing_more() -> None:
    """Removed, it is not kept alive by the GPUs."""
    routes = Routes(OWNERS.get)
    told: list[Any] = []
    routes.add(1, told.append)
    routes.route([looked(5, 10)])
    routes.remove(1)
    routes.route([GPU, looked(10, 10), span(10)])
    assert told == [GpuUse("nvml:0", 10, 5, 100, None, 0)]


def test_what_one_process_did_concerns_its_target_alone() -> None:
    """Two targets share a card; a span with a PID goes to one of them."""
    routes = Routes(OWNERS.get)
    one: list[Any] = []
    two: list[Any] = []
    routes.add(1, one.append)
    routes.add(2, two.append)
    routes.route([looked(5, 10, 20), span(10, 10), span(20)])
    assert [s for s in one if isinstance(s, EngineSpan)] == [span(10, 10), span(20)]
    assert [s for s in two if isinstance(s, EngineSpan)] == [span(20)]


def test_an_observation_that_is_cut_is_told_from_the_beginning_again() -> None:
    """Its next part learns the GPUs of the host and, with the next look, which of them it uses."""
    routes = Routes(OWNERS.get)
    before: list[Any] = []
    after: list[Any] = []
    routes.add(1, before.append)
    routes.route([GPU, looked(5, 10), span(10)])
    routes.add(1, after.append)
    routes.route([span(20), looked(35, 10), span(30)])
    assert before == [GPU, GpuUse("nvml:0", 10, 5, 100, None, 0), span(10)]
    assert after == [GPU, GpuUse("nvml:0", 10, 35, 100, None, 0), span(10), span(20), span(30)]


def test_the_next_part_has_its_share_of_a_sample_that_the_cut_went_through() -> None:
    """What was before the cut is in the part before."""
    base = Base(Snapshot(15))
    assert base.record(span(10)) == EngineSpan("nvml:0", 15, 20, 2, 0, 10)
    assert base.record(span(20)) == span(20)
    assert base.record(span(0)) is None
