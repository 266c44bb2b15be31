"""``sequential_calls``: network calls done one after another that could have been issued together.

Reported beside ``blocking_network_call``, of which it is one remedy: that finding says who is waited for,
this one that the waits need not add up. Grouped by thread and function, whoever its peers are; without a
stack, by thread and peer.

A *run* is two calls or more by the driver between two inferences; without an engine, by a main thread with
less than a fifth of the wait in between. What a call is, see :mod:`whyidle_daemon.sequences`: an answer that
trickles in is one call, and calls that an event loop waits for are none of these.

**saves_s**: of each run all but the longest call. Whether a call needs the result of the one before cannot
be seen, so the confidence is never high.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from whyidle_daemon.findings.evidence import Evidence, say, seconds
from whyidle_daemon.findings.waiting import (
    MIN_NS,
    MIN_SHARE,
    Idle,
    Waiting,
    in_function,
    report_of,
    who_waits,
)
from whyidle_daemon.gaps import EngineActivity
from whyidle_daemon.sequences import Runs, RunsKey

MIN_ALONE_NS = 250_000_000
MIN_ALONE_SHARE = 0.10


class Culprit(NamedTuple):
    """A function that queues calls behind one another often enough to matter; ``engine`` idles meanwhile."""

    key: RunsKey
    runs: Runs
    engine: EngineActivity | None
    waiting: Waiting


def culprits(evidence: Evidence) -> Iterator[Culprit]:
    """All of them, by engine; those of main threads where there is no engine."""
    for engine in evidence.engines:
        for key, runs in engine.sequences.items():
            share = runs.saves_ns / max(1, min(engine.idle_ns or evidence.wall_ns, evidence.wall_ns))
            if runs.saves_ns >= MIN_NS and share >= MIN_SHARE:
                yield from _culprit(evidence, key, runs, engine)
    for key, runs in evidence.sequences.items():
        if runs.saves_ns >= max(MIN_ALONE_NS, MIN_ALONE_SHARE * evidence.wall_ns):
            yield from _culprit(evidence, key, runs, None)


def find(evidence: Evidence) -> list[dict[str, Any]]:
    """One finding for each function that queues calls behind one another."""
    return [_finding(evidence, *culprit) for culprit in once(culprits(evidence))]


def once(found: Iterable[Culprit]) -> list[Culprit]:
    """Each function of a thread once, however many engines the thread drives and keeps from work meanwhile.

    The engine that it saves the most for is the one that asks for the calls; another, as one that embeds
    what they found, is only called in between.
    """
    best: dict[RunsKey, Culprit] = {}
    for culprit in found:
        known = best.get(culprit.key)
        if known is None or culprit.runs.saves_ns > known.runs.saves_ns:
            best[culprit.key] = culprit
    return list(best.values())


def _culprit(
    evidence: Evidence, key: RunsKey, runs: Runs, engine: EngineActivity | None
) -> Iterator[Culprit]:
    known = {_alike(raw): ns for raw, ns in runs.keys.items()}
    groups = [
        group
        for name, group in evidence.groups.items()
        if _alike(name) in known and name not in evidence.inbound
    ]
    if groups:  # else it waits for demand
        yield Culprit(key, runs, engine, Waiting(key.process, key.tid, tuple(groups)))


def _finding(
    evidence: Evidence, key: RunsKey, runs: Runs, engine: EngineActivity | None, waiting: Waiting
) -> dict[str, Any]:
    idle = None
    if engine is not None:
        idle = Idle(engine, runs.total_ns, runs.total_ns / engine.idle_ns if engine.idle_ns else 0.0)
    peers = sorted({group.key.end_text or "?" for group in waiting.groups})
    found = report_of(
        evidence,
        "sequential_calls",
        waiting,
        idle,
        doubts=["that no call needs the result of the one before is likely, not seen"],
        count=runs.calls,
        blocked_s=seconds(runs.total_ns),
        longest_s=seconds(runs.longest_ns),
        saves_s=seconds(runs.saves_ns),
        runs=runs.runs,
        calls_per_run=runs.calls / runs.runs,
        peers=peers,
        advice=(
            f"{who_waits(evidence, key.process, key.tid)}{in_function(waiting.place)} made {runs.calls} "
            f"calls one after another, at most {runs.longest_run} in a row, {say(runs.total_ns)} in all: "
            "issue those that do not need each other's result together (asyncio.gather with "
            f"httpx.AsyncClient, or a thread pool), which leaves {say(runs.total_ns - runs.saves_ns)}."
        ),
    )
    if len(peers) > 1:
        found["peer"] = None
    return found


def _alike(key: Any) -> Any:
    place = key.place._replace(role="") if key.place is not None else None
    return key._replace(host=None, path=None, place=place)
