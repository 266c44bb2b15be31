"""Predictions of a run with its calls issued together, against runs that did issue them together."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_schema import check
from timeline import (
    COST,
    HOST,
    MS,
    PID,
    START,
    Life,
    S,
    Step,
    at,
    call,
    infer,
    life,
    observe,
    peer,
    run,
)

from whyidle_daemon.facts import Loss, Snapshot
from whyidle_daemon.observation import Observation
from whyidle_probes.events import STATES, Gap

HEAD = ("HTTPResponse._read_status (/usr/lib/python3.11/http/client.py:280)",)


def search(ns: int, port: int, function: str = "search") -> Step:
    return at(call(ns, peer(local_port=port)), function, inner=HEAD)


def sequential(steps: list[list[int]]) -> list[Step]:
    """One inference, then calls of these lengths one after another, and so on."""
    found: list[Step] = []
    for lengths in steps:
        found += [
            infer(S),
            *(search(ns, port) for port, ns in enumerate(lengths, start=40_000)),
            run(10 * MS),
        ]
    return [*found, infer(S)]


def predict(lives: list[Life]) -> dict[str, Any]:
    report = observe(lives)
    check(report)
    (found,) = report["what_if"]
    assert found["fix"] == "sequential_calls"
    return dict(found)


@given(st.lists(st.lists(st.integers(150 * MS, 3 * S), min_size=2, max_size=5), min_size=1, max_size=6))
def test_what_is_predicted_is_what_the_fixed_run_takes(steps: list[list[int]]) -> None:
    """The same calls, issued together: each step takes as long as its longest call. Exactly."""
    before = observe([life(sequential(steps))])
    after = observe([life(sequential([[max(lengths)] for lengths in steps]))])
    saved = sum(sum(lengths) - max(lengths) for lengths in steps)
    found = before["what_if"]
    if not found:
        idle = before["engines"][0]["idle_s"]
        assert saved / S < max(0.1, 0.05 * idle) + 1e-6  # not worth a finding
        return
    assert found[0]["predicted_wall_s"] == pytest.approx(after["target"]["duration_s"], abs=1e-6)
    really = after["engines"][0]["utilization_mean"]
    assert found[0]["engines"][0]["predicted_utilization"] == pytest.approx(really, abs=1e-6)
    assert sum(found[0]["remains_s"].values()) == pytest.approx(found[0]["predicted_wall_s"])
    assert not after["what_if"]


def test_calls_of_different_functions_stay_in_their_order() -> None:
    """What was found has to be read after it was found."""
    steps = [search(S, 1), search(S, 2), search(S, 3, "read_page"), search(S, 4, "read_page")]
    found = predict([life([infer(S), *steps, infer(S)])])
    assert found["functions"] == ["read_page", "search"]
    assert found["predicted_wall_s"] == pytest.approx(4.0)
    assert found["remains_s"] == {"inference": 2.0, "calls": 2.0, "rest": pytest.approx(0.0)}


def test_the_target_ends_with_its_last_thread() -> None:
    """Two agents side by side: what one of them saves does not end the other sooner."""
    guilty = life(sequential([[S, S, S]]))
    right = life([infer(S), search(9 * S, 1), infer(S)], pid=PID + 1)
    found = predict([guilty, right])
    assert found["predicted_wall_s"] == found["wall_s"] == pytest.approx(11.0)
    alone = predict([guilty, life([infer(S), search(100 * MS, 1), infer(S)], pid=PID + 1)])
    assert alone["predicted_wall_s"] == pytest.approx(alone["wall_s"] - 2.0)


def test_how_much_another_run_may_differ() -> None:
    """Steps that all save the same leave no doubt; steps that differ do; two steps do not tell."""
    same = predict([life(sequential([[S, S]] * 4))])
    assert same["predicted_wall_low_s"] == same["predicted_wall_s"] == same["predicted_wall_high_s"]
    other = predict([life(sequential([[S, S], [2 * S, 2 * S], [S, 3 * S], [300 * MS, S]]))])
    assert other["predicted_wall_low_s"] < other["predicted_wall_s"] < other["predicted_wall_high_s"]
    assert predict([life(sequential([[S, S]] * 2))])["predicted_wall_low_s"] is None


def test_nothing_to_predict() -> None:
    """One call per inference, or an engine that is busy: no fix, no prediction."""
    assert observe([life([infer(S), search(S, 1), infer(S)])])["what_if"] == []
    assert observe([life([infer(S), run(S), infer(S)])])["what_if"] == []


OTHER = 0x9990  # a second context


def test_another_engine_of_the_thread_changes_nothing() -> None:
    """An agent that embeds what it found calls a second context between the steps; its calls are the same."""
    chat = life(sequential([[S, S, S, S, S]] * 6))
    one = predict([chat])
    gaps, last, busy_ns = [], 0, 0
    begin = START
    for _ in range(6):
        begin += 6 * S
        if last:
            gaps.append(Gap(1, PID, PID, OTHER, last, begin, None))
        last = begin + 10 * MS
        busy_ns += 10 * MS
        begin = last
    assert chat.engine is not None
    embeds = chat.engine._replace(
        **{"context": OTHER, "first_ns": START + 6 * S, "last_ns": last, "busy_ns": busy_ns},
        **{"idle_ns": sum(gap.end_ns - gap.start_ns for gap in gaps), "calls": 6, "gaps": 5, "short_ns": 0},
        **{"seen": (0,) * STATES, "busy": False},
    )
    observation = Observation(START, (PID,), ("python",), "2026-01-01T00:00:00Z")
    for record in (*chat.samples, *chat.records, *gaps):
        observation.add(record)
    snapshot = Snapshot(chat.end_ns, (chat.thread,), (chat.engine, embeds))
    report = observation.report(snapshot, HOST, Loss(), COST)
    (both,) = report["what_if"]
    for name in ("runs", "calls", "predicted_wall_s", "saves_s"):
        assert both[name] == one[name], name
    assert [f["kind"] for f in report["findings"]].count("sequential_calls") == 1
    (first, second) = both["engines"]
    assert first["predicted_utilization"] == one["engines"][0]["predicted_utilization"]
    assert second["predicted_utilization"] > second["utilization"]
