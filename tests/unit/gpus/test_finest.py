"""Each idle second counts once, whatever engines a process has on top of one another."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_schema import check
from timeline import COST, HOST, MS, PID, START, Life, S, call, infer, life, run

from whyidle_daemon.facts import EngineSpan, GpuUse, Loss, Snapshot
from whyidle_daemon.metrics.ledger import series_of
from whyidle_daemon.observation import Observation
from whyidle_probes.events import CONTEXT_CUDA, Gap

PERIOD = 100 * MS
SETUPS = st.fixed_dictionaries(
    {
        "processes": st.lists(st.sets(st.sampled_from(["llama", "cuda"])), min_size=1, max_size=3),
        "gpus": st.lists(st.sets(st.integers(0, 2), min_size=1), max_size=2),
        "rounds": st.lists(st.tuples(st.integers(1, 300), st.integers(1, 900)), min_size=1, max_size=5),
    }
)


def observed(setup: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Processes that all infer and wait in turns, with these engines; and until when."""
    observation = Observation(START, tuple(PID + n for n in range(3)), ("x",), "2026-01-01T00:00:00Z")
    steps = [step for busy, idle in setup["rounds"] for step in (infer(busy * MS), call(idle * MS), run(MS))]
    lives: list[Life] = [life(steps, pid=PID + n) for n in range(len(setup["processes"]))]
    end = lives[0].end_ns
    engines = []
    for one, kinds in zip(lives, setup["processes"], strict=True):
        for record in one.records:
            if not isinstance(record, Gap) or "llama" in kinds:
                observation.add(record)
            if isinstance(record, Gap) and "cuda" in kinds:
                observation.add(record._replace(context=CONTEXT_CUDA))
        if one.engine is not None:
            engines += [one.engine] if "llama" in kinds else []
            engines += [one.engine._replace(context=CONTEXT_CUDA)] if "cuda" in kinds else []
    for number, holders in enumerate(setup["gpus"]):
        gpu = f"nvml:{number}"
        for holder in holders:
            if holder < len(lives):
                observation.add(GpuUse(gpu, PID + holder, START, 1 << 30))
        for at in range(START, end, PERIOD):
            observation.add(EngineSpan(gpu, at, min(at + PERIOD, end), PERIOD // 3, 0, PERIOD))
    snapshot = Snapshot(end, tuple(one.thread for one in lives), tuple(engines))
    return observation.report(snapshot, HOST, Loss(), COST, None), end - START


@given(SETUPS)
@settings(max_examples=150, deadline=None)
def test_an_idle_second_counts_once(setup: dict[str, Any]) -> None:
    """Of each process the finest kind alone, and a GPU only if none of its processes has anything finer."""
    report, wall = observed(setup)
    check(report)  # the causes add up to the idle time of the finest engines, their shares to 1
    counted = [engine for engine in report["engines"] if engine["finest"]]
    for number, kinds in enumerate(setup["processes"]):
        own = [engine for engine in counted if engine["pid"] == PID + number and engine["kind"] != "nvml"]
        assert [engine["kind"] for engine in own] == (["llama"] if "llama" in kinds else sorted(kinds))
        of_process = [row for row in report["idle_by_cause"] if row["pid"] == PID + number]
        if kinds:
            assert sum(row["seconds"] for row in of_process) <= wall / S + 1e-6
    for engine in report["engines"]:
        if engine["kind"] == "nvml":
            holders = setup["gpus"][int(engine["id"].partition(":")[2])]
            finer = any(setup["processes"][n] for n in holders if n < len(setup["processes"]))
            assert engine["finest"] == (not finer)
    sums = series_of(report)
    idle = sum(value for (name, _), value in sums.items() if name == "idle")
    assert sum(value for (name, _), value in sums.items() if name == "cause") == pytest.approx(idle)


def test_all_three_on_top_of_one_another() -> None:
    """llama.cpp on CUDA on a GPU: three engines in the report, one in the sums and in the findings."""
    setup = {"processes": [{"llama", "cuda"}], "gpus": [{0}], "rounds": [(100, 900)] * 4}
    report, _ = observed(setup)
    check(report)
    assert sorted(engine["kind"] for engine in report["engines"]) == ["cuda", "llama", "nvml"]
    (llama,) = [engine for engine in report["engines"] if engine["finest"]]
    assert llama["kind"] == "llama"
    assert sum(row["seconds"] for row in report["idle_by_cause"]) == pytest.approx(llama["idle_s"])
    found = next(f for f in report["findings"] if f["kind"] == "blocking_network_call")
    assert found["share_of_idle"] == pytest.approx(found["engine_idle_s"] / llama["idle_s"])
