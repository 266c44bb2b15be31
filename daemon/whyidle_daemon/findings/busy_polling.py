"""``busy_polling``: a thread that looks again and again instead of being woken.

Seen in the totals: at least 200 sleeps, 5 ms each on average or less, together at least 0.1 s and 5 % of the
thread's life. Only sleeps count (``nanosleep``, a ``select`` or
``poll`` without descriptors): a selector that returns often has been given work, which is what an active
server looks like, and nobody can tell that from a short timeout by its totals.

With an engine only its driver is guilty, for sleeps that left the engine idle; without an engine any thread,
for the CPU that it uses costs the others.

**saves_s** is 0: what is polled for comes no sooner. ``cpu_s`` is what the thread itself used.
"""

from __future__ import annotations

from typing import Any

from whyidle_daemon.attribution import ThreadTime
from whyidle_daemon.findings.evidence import Evidence, say, seconds
from whyidle_daemon.findings.waiting import Waiting, idle_of, in_function, report_of, waits_in, who_waits
from whyidle_probes.events import Wait

MIN_COUNT = 200
MAX_MEAN_NS = 5_000_000
MIN_SHARE = 0.05
MIN_NS = 100_000_000
MAX_FOUND = 10


def find(evidence: Evidence) -> list[dict[str, Any]]:
    """One finding for each thread that polls."""
    polling = [time for time in evidence.threads if _polls(time)]
    if evidence.engines:
        polling = [time for time in polling if evidence.engines_of(time.process, time.tid)]
    polling.sort(key=lambda time: (-time.counts[Wait.SLEEP], time.process.pid, time.tid))
    found = [_finding(evidence, time) for time in polling[:MAX_FOUND]]
    return [finding for finding in found if finding is not None]


def _polls(time: ThreadTime) -> bool:
    count, ns = time.counts[Wait.SLEEP], time.waits[Wait.SLEEP]
    return count >= MIN_COUNT and ns <= count * MAX_MEAN_NS and ns >= max(MIN_NS, MIN_SHARE * time.wall_ns)


def _finding(evidence: Evidence, time: ThreadTime) -> dict[str, Any] | None:
    parts = waits_in(evidence, [time], "sleep")
    worst = max(parts, key=lambda part: part.blocked_ns)
    waiting = Waiting(
        time.process,
        time.tid,
        worst.groups,
        sum(part.rest_ns for part in parts),
        rest_state="sleep",
    )
    idle = idle_of(evidence, waiting)
    if evidence.engines and idle is None:
        return None
    count, ns = time.counts[Wait.SLEEP], time.waits[Wait.SLEEP]
    mean = ns / count
    return report_of(
        evidence,
        "busy_polling",
        waiting,
        idle,
        from_totals=True,
        count=count,
        blocked_s=seconds(ns),
        share_of_wall=ns / max(1, evidence.wall_ns),
        saves_s=0.0,
        cpu_s=seconds(time.states.get("running", 0)),
        mean_s=mean / 1e9,
        advice=(
            f"{who_waits(evidence, time.process, time.tid)}{in_function(waiting.place)} slept {count} times "
            f"for {mean / 1e6:.1f} ms on average, {say(ns)} in all: wait for the event itself (queue.get, "
            "threading.Event.wait, asyncio.Event, select on the descriptor) in place of looking for it."
        ),
    )
