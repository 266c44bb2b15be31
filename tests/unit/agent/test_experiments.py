"""The experiments' arithmetic, on accounts whose answer is known."""

import io
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from whyidle_agent.experiments import closing, context, memory
from whyidle_agent.experiments.observed import Observed
from whyidle_agent.experiments.trend import slope_of


@given(st.floats(-1e6, 1e6), st.integers(100, 600), st.integers(0, 2**32))
def test_the_slope_of_a_line_with_teeth(rate: float, count: int, seed: int) -> None:
    """What rises above the floor now and then does not change its slope."""
    height = random.Random(seed).uniform
    slope = slope_of([(float(i), rate * i + (height(0, 1e5) if i % 2 else 0.0)) for i in range(count)], 0.2)
    assert slope is not None
    assert slope.low <= slope.value <= slope.high
    assert slope.value == pytest.approx(rate, rel=0.2, abs=2e5 / count)


def test_noise_is_level_and_growth_is_not() -> None:
    """The interval of noise holds 0; a thousandth of it more each time does not."""
    noise = [(float(i), float(i * 7919 % 1009)) for i in range(2000)]
    level = slope_of(noise, 0.25)
    grown = slope_of([(at, value + 3 * at) for at, value in noise], 0.25)
    assert level is not None
    assert grown is not None
    assert level.level
    assert not grown.level
    assert grown.low <= 3 <= grown.high


def test_the_warm_up_does_not_count() -> None:
    """What is loaded once is no growth; too few points are no trend."""
    loaded = [(float(i), min(i, 100) * 1e6) for i in range(1000)]
    slope = slope_of(loaded, 0.25)
    assert slope is not None
    assert slope.value == slope.low == slope.high == 0
    assert slope_of(loaded[:3], 0.0) is None
    assert slope_of([], 0.25) is None


def _memory_run(rate: float, finding: bool) -> Observed:
    points = [[1000.0 + i, i, rate * i, 5e7 + rate * i] for i in range(101)]
    own = {"held_bytes": rate * 100, "duplicate_bytes": rate * 70, "indexed": 8, "merged": 0, "expired": 0}
    seen = [[0.1, 1e7], *([i + 0.5, 5e7 + rate * i] for i in range(101))]  # the program begins small
    found = [{"kind": "memory_growth", "growth_bytes_per_s": rate}] if finding else []
    return Observed(
        {
            "started": 1000.0,
            "wall_s": 100.0,
            "steps": 101,
            "memory": own | {"points": points, "store_bytes": 9},
        },
        {
            "target": {"duration_s": 100.5},
            "memory": {"processes": [{"points": seen}, {"points": [[0.0, 1.0]]}, {"points": []}]},
            "findings": found,
        },
        [],
    )


def _shown(show: Any, result: dict[str, Any]) -> str:
    out = io.StringIO()
    show(result, Console(file=out, width=200).print)
    return out.getvalue()


def test_the_memory_experiment_compares_both_clocks() -> None:
    """The rate by whyidle stands beside the agent's, and a finding that is not there is said to be absent."""
    result = memory.compare(_memory_run(1e6, True), _memory_run(0.0, False))
    before, after = result["unbounded"], result["managed"]
    assert before["whyidle"]["growth_bytes_per_s"] == before["agent"]["held_bytes_per_s"] == 1e6
    assert before["whyidle"]["start_bytes"] == before["agent"]["start_bytes"] == 5e7
    assert before["whyidle"]["peak_bytes"] == 1.5e8
    assert before["agent"]["duplicates_share"] == pytest.approx(0.7)
    assert after["whyidle"]["growth_bytes_per_s"] is None
    assert after["whyidle"]["trend"]["low"] <= 0 <= after["whyidle"]["trend"]["high"]
    text = _shown(memory.show, result)
    assert "no memory_growth" in text
    assert "1.000 MB/s" in text


def _context_run(steps: int) -> Observed:
    inferences = [{"fill": 1900 * (i + 1), "latency_s": 0.1 * (i + 1)} for i in range(steps)]
    # The second step looked like two.
    inferences.insert(1, {"fill": 3000, "latency_s": 0.05})
    engine = {
        "context": {"size": 24576},
        "kv_cache_bytes": 24576 * 512,
        "inferences": inferences,
        "latency_s": {"count": len(inferences)},
    }
    history = [
        {"step": i + 1, "prompt_tokens": 1900 * i + 1600, "tokens": 300, "think_s": 0.1} for i in range(steps)
    ]
    return Observed({}, {"engines": [engine], "findings": []}, history)


def _half(full_in: float | None) -> dict[str, Any]:
    found = [
        {"kind": "kv_cache_growth", "full_in_inferences": full_in},
        {"kind": "memory_limit_near", "limit": {"scope": "kv_cache"}},
        {"kind": "memory_limit_near", "limit": {"scope": "host"}},
    ]
    return {"engines": [{"latency_s": {"count": 6}}], "findings": found if full_in is not None else []}


def test_the_context_experiment_judges_its_forecast() -> None:
    """What was said after six inferences stands beside the one that found no room."""
    result = context.compare(_context_run(11), _half(6.9))
    assert result["forecast"] == {
        "after_inferences": 6,
        "fails_at_inference": 13,
        "failed_at_inference": 13,
        "error": 0.0,
        "findings": ["kv_cache_growth", "memory_limit_near"],
    }
    assert [step["latency_s"] for step in result["steps"][:3]] == pytest.approx([0.1, 0.25, 0.3])
    assert [step["tokens"] for step in result["steps"]] == [1900 * step for step in range(1, 12)]
    assert result["steps"][-1]["kv_bytes"] == 1900 * 11 * 512
    assert "in inference 13" in _shown(context.show, result)


def test_a_context_that_was_not_foretold() -> None:
    """No finding is no forecast, and the table says so."""
    result = context.compare(_context_run(12), _half(None))
    assert result["forecast"]["fails_at_inference"] is None
    assert "not foretold" in _shown(context.show, result)


def test_the_closing_table_is_of_the_engine_that_thinks() -> None:
    """Of two engines the busier one counts; what is not known is not zero."""
    small = {"busy_s": 1.0, "idle_s": 9.0, "memory_peak_bytes": 5, "latency_s": {"p95": 9.0}}
    large = {"busy_s": 4.0, "idle_s": 6.0, "memory_peak_bytes": None, "latency_s": {"p95": 1.5}}
    report = {
        "target": {"duration_s": 10.0},
        "engines": [small, large],
        "processes": [{"rss_peak_bytes": 7, "cpu_s": 3.0}, {"rss_peak_bytes": 9, "cpu_s": 4.0}],
        "findings": [],
    }
    line = closing.measured(Observed({}, report, []))
    assert line["utilisation"] == pytest.approx(0.4)
    assert (line["engine_memory_bytes"], line["p95_s"], line["peak_memory_bytes"]) == (None, 1.5, 9)
    assert line["cpu"] == pytest.approx(0.7)
    text = _shown(closing.show, {"before": line, "after": line})
    assert "?" in text
    assert "70% of a core" in text
