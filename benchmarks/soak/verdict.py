"""Whether a daemon grew: pure, over the samples of a soak.

Growth is judged by the floor: the least value of each stretch of time after the warm-up, so that what comes
and goes (agents, parts of the history) does not count. Its slope is that of Theil and Sen, with a confidence
interval of 95 %. Where that of memory reaches over the limit, the run was too short to tell: that is no pass.
What is counted grows only if it goes on: a step (a probe that is attached when it is first needed) is none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from benchmarks.soak.sampling import Sample
from whyidle_daemon.series import Point, Slope, floor_of, theil_sen, trend_of

WARM_UP = 0.25  # of the run
STRETCHES = 24
MIN_COUNTS = 8
MAX_DRIFT = 0.01  # of the memory, per hour
MET, FAILED, TOO_SHORT = "met", "failed", "too short to tell"


class Judgement(NamedTuple):
    """One line of the verdict."""

    what: str
    found: str
    goal: str
    verdict: str


def after_warm_up(samples: Sequence[Sample]) -> list[Sample]:
    """The samples that count."""
    begin = samples[0].seconds + WARM_UP * (samples[-1].seconds - samples[0].seconds)
    return [sample for sample in samples if sample.seconds >= begin]


def slope_of(samples: Sequence[Sample], value: Callable[[Sample], int]) -> Slope | None:
    """Units per second of what stays, after the warm-up."""
    return theil_sen(floor_of(_points(samples, value), STRETCHES))


def judge(samples: Sequence[Sample], cores: int, mistakes: int) -> list[Judgement]:
    """Everything that a soak decides.

    ``cores``: for the share of the host that the daemon took. ``mistakes``: errors in the daemon's log.
    """
    used = after_warm_up(samples)
    spent = used[-1].cpu_s - used[0].cpu_s
    core = spent / (used[-1].seconds - used[0].seconds)
    return [
        _memory("memory (RSS), per hour", f"≤{MAX_DRIFT:.0%}", samples, lambda sample: sample.rss_bytes),
        _memory("of it what no file backs", "", samples, lambda sample: sample.anonymous_bytes),
        _count("descriptors", samples, lambda sample: sample.descriptors),
        _count("BPF maps", samples, lambda sample: sample.bpf_maps),
        _count("BPF programs", samples, lambda sample: sample.bpf_programs),
        _count("entries of BPF maps", samples, lambda sample: sample.map_entries),
        _count("threads", samples, lambda sample: sample.threads),
        _count("bytes waiting for clients", samples, lambda sample: sample.queued_bytes),
        Judgement("errors in the daemon's log", str(mistakes), "0", FAILED if mistakes else MET),
        Judgement("CPU", f"{core:.2%} of a core ({core / cores:.2%} of the host)", "", ""),
        Judgement("lost by the kernel side", str(used[-1].lost), "", ""),
        Judgement("dropped for clients that do not read", str(used[-1].dropped), "", ""),
    ]


def passed(judgements: Sequence[Judgement]) -> bool:
    """Nothing failed, and nothing stayed open."""
    return all(judgement.verdict in (MET, "") for judgement in judgements)


def _memory(what: str, goal: str, samples: Sequence[Sample], value: Callable[[Sample], int]) -> Judgement:
    found = slope_of(samples, value)
    if found is None:
        return Judgement(what, "not enough samples", goal, TOO_SHORT if goal else "")
    levels = sorted(map(value, after_warm_up(samples)))
    level = levels[len(levels) // 2]
    middle, low, high = (3600 * each / level for each in found)
    verdict = MET if high <= MAX_DRIFT else FAILED if low > MAX_DRIFT else TOO_SHORT
    text = f"{middle:+.2%} ({low:+.2%} to {high:+.2%}) of {level / 1e6:.1f} MB"
    return Judgement(what, text, goal, verdict if goal else "")


def _count(what: str, samples: Sequence[Sample], value: Callable[[Sample], int]) -> Judgement:
    points = _points(samples, value)
    counts = [count for _, count in points]
    text = f"{counts[0]} at first, {counts[-1]} at last, {min(counts)} to {max(counts)}"
    if len(points) < MIN_COUNTS:
        return Judgement(what, text, "no growth", TOO_SHORT)
    trend = trend_of(points, MIN_COUNTS, warm_up=0.0, stretches=STRETCHES)
    return Judgement(what, text, "no growth", MET if trend is None else FAILED)


def _points(samples: Sequence[Sample], value: Callable[[Sample], int]) -> list[Point]:
    """What is judged: ``(ns, value)`` after the warm-up."""
    return [(int(sample.seconds * 1e9), value(sample)) for sample in after_warm_up(samples)]
