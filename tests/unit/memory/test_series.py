"""What grows is found with its rate; what only looks like growing is not."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whyidle_daemon import series
from whyidle_daemon.quantiles import RELATIVE_ERROR, Durations
from whyidle_daemon.series import MAX_POINTS, NS, Series, theil_sen, trend_of

MB = 1_000_000
Values = list[float]


def points(values: Values, step_s: float = 0.25) -> list[tuple[int, int]]:
    return [(int(NS + i * step_s * NS), int(value)) for i, value in enumerate(values)]


def leak(n: int, rate: float = 2 * MB, base: float = 80 * MB) -> Values:
    return [base + rate * i * 0.25 for i in range(n)]


@given(
    rate=st.floats(0.2 * MB, 50 * MB),
    n=st.integers(30, 400),
    noise=st.floats(0, 0.3),
    seed=st.integers(0, 1000),
)
def test_a_leak_is_found_with_its_rate(rate: float, n: int, noise: float, seed: int) -> None:
    """Within 5 %, whatever the rate, with noise of up to a third of a sample's growth."""
    random.seed(seed)
    values = [value + random.uniform(-noise, noise) * rate * 0.25 for value in leak(n, rate)]
    trend = trend_of(points(values))
    assert trend is not None
    assert trend.rate == pytest.approx(rate, rel=0.05)
    assert trend.low <= trend.rate <= trend.high


def test_outliers_do_not_bend_the_rate() -> None:
    """Every tenth sample is of a moment with twice the memory: the median slope does not see it."""
    values = leak(200)
    values[::10] = [2 * value for value in values[::10]]
    trend = trend_of(points(values))
    assert trend is not None
    assert trend.rate == pytest.approx(2 * MB, rel=0.05)


def test_a_leak_below_a_sawtooth_is_found() -> None:
    """The floor of the teeth rises: what the collector leaves is the leak."""
    values = [value + (i % 10) * 3 * MB for i, value in enumerate(leak(240, 0.5 * MB))]
    trend = trend_of(points(values))
    assert trend is not None
    assert trend.rate == pytest.approx(0.5 * MB, rel=0.05)


@given(
    step=st.floats(1 * MB, 20 * MB),
    every=st.integers(4, 12),
    steps=st.integers(1, 4),
    base=st.floats(20 * MB, 200 * MB),
)
def test_a_warm_up_in_steps_is_no_trend(step: float, every: int, steps: int, base: float) -> None:
    """Memory taken in a few steps, one an inference, as a model's context is used for the first time."""
    values = [base + step * (i // every) for i in range(every * (steps + 1))]
    assert trend_of(points(values)) is None


@given(
    size=st.floats(5 * MB, 500 * MB),
    tau_s=st.floats(0.2, 10),
    n=st.integers(16, 400),
)
def test_a_warm_up_is_no_trend_once_it_has_levelled_off(size: float, tau_s: float, n: int) -> None:
    """Whatever its size and pace: seen for five times as long as it takes, it is over."""
    span_s = n * 0.25
    tau_s = min(tau_s, span_s / 5)
    values = [80 * MB + size * (1 - math.exp(-i * 0.25 / tau_s)) for i in range(n)]
    assert trend_of(points(values)) is None


@given(
    each=st.floats(0.2 * MB, 20 * MB),
    period_s=st.floats(0.3, 3),
    loops=st.integers(24, 200),
    seed=st.integers(0, 1000),
)
def test_a_leak_of_every_loop_is_found(each: float, period_s: float, loops: int, seed: int) -> None:
    """An unbounded memory, a piece more with each loop of uneven length: a staircase that goes on."""
    draw = random.Random(seed)
    ends, at = [], 0.0
    for _ in range(loops):
        at += period_s * draw.uniform(0.8, 1.2)
        ends.append(at)
    n = int(at / 0.25)
    values = [80 * MB + each * sum(end <= i * 0.25 for end in ends) for i in range(n)]
    trend = trend_of(points(values))
    assert trend is not None
    assert trend.rate == pytest.approx(each * loops / at, rel=0.25)


DECOYS: dict[str, Values] = {
    "constant": [80 * MB] * 200,
    "a sawtooth": [80 * MB + (i % 12) * 4 * MB for i in range(200)],
    "long teeth": [80 * MB + (i % 40) * MB for i in range(200)],
    "a warm-up that levels off": [80 * MB + 60 * MB * (1 - 0.9**i) for i in range(200)],
    "a slow warm-up": [min(80 * MB + i * MB, 160 * MB) for i in range(200)],
    "one step": [80 * MB + (40 * MB if i > 100 else 0) for i in range(200)],
    "a late step": [80 * MB + (40 * MB if i > 180 else 0) for i in range(200)],
    "shrinks": list(reversed(leak(200))),
    "noise": [80 * MB + random.Random(i).uniform(0, 5 * MB) for i in range(200)],
    "too few": leak(10),
}


@pytest.mark.parametrize("name", DECOYS)
def test_no_trend(name: str) -> None:
    """Memory that is used is not memory that is lost."""
    assert trend_of(points(DECOYS[name])) is None


@given(st.lists(st.tuples(st.integers(0, 1 << 62), st.integers(0, 1 << 62)), max_size=60))
def test_any_points_are_taken(raw: list[tuple[int, int]]) -> None:
    """Whatever the samples: no error, and a trend's interval holds its rate."""
    series = Series()
    for ns, value in raw:
        series.add(ns, value)
    trend = trend_of(series.points)
    assert trend is None or 0 < trend.low <= trend.rate <= trend.high


@given(st.integers(1, 5000))
def test_a_series_is_bounded_and_keeps_its_ends(n: int) -> None:
    """First and last point stay, whatever is forgotten between them."""
    series = Series()
    for i in range(1, n + 1):
        series.add(i, i * 10)
    kept = series.points
    assert len(kept) <= MAX_POINTS + 1
    assert (kept[0], kept[-1]) == ((1, 10), (n, 10 * n))
    assert kept == sorted(set(kept))


def test_slopes_of_too_few() -> None:
    assert theil_sen([(1, 1), (2, 2)]) is None
    assert theil_sen([(1, 1), (1, 2), (1, 3)]) is None


@given(st.lists(st.integers(1, 10**13), min_size=1, max_size=300), st.floats(0.01, 1))
def test_quantiles_are_as_near_as_they_say(values: list[int], q: float) -> None:
    """Within 1 % of the value of that rank."""
    durations = Durations()
    for value in values:
        durations.add(value)
    rank = max(1, -(-q * len(values) // 1))
    truth = sorted(values)[int(rank) - 1]
    found = durations.quantile(q)
    assert found is not None
    assert found == pytest.approx(truth, rel=RELATIVE_ERROR * 1.0001)


def test_no_durations_have_no_quantile() -> None:
    assert Durations().quantile(0.5) is None


def test_the_same_points_are_not_paired_again() -> None:
    """A report that is asked for several times a second asks for the same trends."""
    points = [(n * NS, n * n) for n in range(100)]
    first = theil_sen(points)
    hits = series._theil_sen.cache_info().hits
    assert theil_sen(list(points)) == first
    assert series._theil_sen.cache_info().hits == hits + 1
