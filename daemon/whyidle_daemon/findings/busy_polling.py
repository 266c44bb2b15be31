"""``busy_polling``: a thread that looks again and again instead of being woken.

Seen in the totals: at least 200 sleeps, 5 ms each on average or less, together at least 0.1 s and 5 % of the
thread's life. Only sleeps count (``nanosleep``, a ``select`` or
``poll`` without descriptors): a selector that returns often has been given work, which is what an active
server looks like, and nobody can tell that from a short timeout by its totals.

Or it never sleeps: it asks in a loop, with a time-out of zero. Such a thread runs for nearly all of its life,
and a clock that asks what it does found it in a poll, select or epoll_wait that does not wait: at least 20
times, and in one of twenty answers (a busy asyncio loop looks so once in its turn, which is one or two of a
hundred). The rest of its time is the loop around that call; below a fifth it may be work, and that is said.

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
MIN_SPIN_SAMPLES = 20
MIN_SPIN_SHARE = 0.05
SURE_SPIN_SHARE = 0.2
MIN_RUNNING_SHARE = 0.5
MAX_FOUND = 10


def find(evidence: Evidence) -> list[dict[str, Any]]:
    """One finding for each thread that polls."""
    times = [
        time
        for time in evidence.threads
        if not evidence.engines or evidence.engines_of(time.process, time.tid)
    ]
    polling = [time for time in times if _polls(time)]
    polling.sort(key=lambda time: (-time.counts[Wait.SLEEP], time.process.pid, time.tid))
    found = [_finding(evidence, time) for time in polling[:MAX_FOUND]]
    spinning = [time for time in times if _spins(time)]
    spinning.sort(key=lambda time: (-time.polling_samples, time.process.pid, time.tid))
    found += [_spin(evidence, time) for time in spinning[:MAX_FOUND]]
    return [finding for finding in found if finding is not None]


def _spins(time: ThreadTime) -> bool:
    if time.polling_samples < max(MIN_SPIN_SAMPLES, MIN_SPIN_SHARE * time.clock_samples):
        return False
    return time.ran_ns >= max(MIN_NS, MIN_RUNNING_SHARE * time.wall_ns)


def _spin(evidence: Evidence, time: ThreadTime) -> dict[str, Any] | None:
    groups = tuple(
        group
        for key, group in evidence.groups.items()
        if key.process is time.process and key.tid == time.tid and key.wait == Wait.RUNNING
    )
    waiting = Waiting(time.process, time.tid, groups, rest_state="running")
    idle = idle_of(evidence, waiting)
    if evidence.engines and idle is None:
        return None
    ran = time.ran_ns
    unsure = time.polling_samples < SURE_SPIN_SHARE * time.clock_samples
    return report_of(
        evidence,
        "busy_polling",
        waiting,
        idle,
        doubts=["most of its CPU time was not in the poll, and may be work"] if unsure else [],
        from_totals=True,
        count=time.polling_samples,
        blocked_s=0.0,
        share_of_wall=ran / max(1, evidence.wall_ns),
        saves_s=0.0,
        cpu_s=seconds(ran),
        mean_s=0.0,
        samples=time.clock_samples,
        advice=(
            f"{who_waits(evidence, time.process, time.tid)}{in_function(waiting.place)} used a CPU for "
            f"{say(ran)} to ask again and again whether something is there: {time.polling_samples} of "
            f"{time.clock_samples} looks found it in a poll that does not wait. Give the poll a time-out, or "
            "None, and let it sleep until there is something."
        ),
    )


def _polls(time: ThreadTime) -> bool:
    count, ns = time.counts[Wait.SLEEP], time.slept_ns
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
    count, ns = time.counts[Wait.SLEEP], time.slept_ns
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
