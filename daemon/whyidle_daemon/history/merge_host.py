"""What the parts of a history say of the whole host, where several were written side by side. Pure.

One daemon observes all targets: what it lost and what it cost stands in the report of each. Where parts
overlap in time that is the same loss and the same cost, told more than once.
"""

from __future__ import annotations

import itertools
from typing import Any, Final

from whyidle_daemon.intervals import united

Report = dict[str, Any]
Span = tuple[float, float, float]
"""From, until (seconds since any moment), and how much in all."""

_MOMENT_S: Final = 1e-6
_OF_THE_TARGET: Final = ("stacks_lost", "summed_only")


def merged_loss(parts: list[Report], offsets: list[float]) -> dict[str, Any]:
    """``loss`` of all; ``offsets`` says when each began, in order."""
    losses = [part["loss"] for part in parts]
    found = {
        name: total([loss.get(name) for loss in losses])
        if name in _OF_THE_TARGET
        else _once(parts, offsets, [loss.get(name) for loss in losses])
        for name in _names(losses)
    }
    # Nothing was seen until a part began, of none of the targets: there it is known when that was.
    blind = [loss["seconds_blind"] for loss in losses]
    spans = united((at - s, at) for at, s in zip(offsets, blind, strict=True))
    found["seconds_blind"] = sum(end - begin for begin, end in spans)
    return found


def merged_overhead(parts: list[Report], offsets: list[float]) -> dict[str, Any]:
    """``overhead`` of all: the memory is what it was at most."""
    costs = [part["overhead"] for part in parts]
    found = {name: _once(parts, offsets, [cost.get(name) for cost in costs]) for name in _names(costs)}
    found["daemon_rss_bytes"] = max(cost["daemon_rss_bytes"] for cost in costs)
    return found


def total(values: list[Any]) -> Any:
    """The sum of those that are known; ``None`` when none is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _names(items: list[dict[str, Any]]) -> dict[str, None]:
    return dict.fromkeys(name for item in items for name in item)


def _once(parts: list[Report], offsets: list[float], values: list[Any]) -> Any:
    """The sum, with what parts tell of the same time counted once, as the part with most of it tells it."""
    spans: list[Span] = []
    chains: dict[tuple[int, str], int] = {}  # the last part of each target
    known = [value for value in values if value is not None]
    for part, begin, value in zip(parts, offsets, values, strict=True):
        if value is None:
            continue
        target = part["target"]
        name = target["pid"], " ".join(target["command"])
        if name in chains:  # one follows the other, whatever rounding says
            start, end, amount = spans[chains[name]]
            spans[chains[name]] = start, min(end, begin), amount
        chains[name] = len(spans)
        spans.append((begin, begin + target["duration_s"], value))
    if not known:
        return None
    amount = highest(spans)
    return round(amount) if all(isinstance(value, int) for value in known) else amount


def highest(spans: list[Span]) -> float:
    """The integral of the highest rate at each moment, with every amount spread evenly over its span."""
    # Of no duration: of no other's time.
    amount = sum(value for begin, end, value in spans if end - begin < _MOMENT_S)
    lasting = sorted(span for span in spans if span[1] - span[0] >= _MOMENT_S)
    moments = sorted({moment for begin, end, _ in lasting for moment in (begin, end)})
    live: list[tuple[float, float]] = []  # rate, until
    following = 0
    for begin, end in itertools.pairwise(moments):
        live = [one for one in live if one[1] > begin]
        while following < len(lasting) and lasting[following][0] <= begin:
            first, last, value = lasting[following]
            live.append((value / (last - first), last))
            following += 1
        if live:
            amount += max(live)[0] * (end - begin)
    return amount
