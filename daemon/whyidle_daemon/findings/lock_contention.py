"""``lock_contention``: threads of a process hold a lock that the others want.

Most waits on a futex are no contention: a worker waits to be given work, a main thread joins its threads.
What tells contention is that threads *take turns*: each waits until another lets go, and is in its own turn
the one that lets go. Workers are woken by whoever hands out the work and never wake that one at the same
place; a join wakes once. So threads are partners when each woke the other, waiting for the same address or
at the same line. A wait that a stack shows to be inside ``Condition.wait``, ``Queue.get``, ``join`` and their
like is left out.

Guilty is such a set of threads if a driver among them left its engine idle for at least 0.1 s and 5 % of the
idle time or of the run; without an engine if one of them waited for at least 0.2 s and 10 % of the run. One
finding per process and line, for an engine's driver, else the main thread, else the one that waited longest.

**saves_s**: what the named thread waited; the others' waits run beside it.
"""

from __future__ import annotations

from typing import Any

from whyidle_daemon.findings.evidence import Evidence, say, seconds
from whyidle_daemon.findings.waiting import (
    Idle,
    Waiting,
    grouped,
    idle_of,
    in_function,
    report_of,
    wakers_of,
    who_waits,
)
from whyidle_daemon.processes import Process
from whyidle_daemon.waits import WaitKey
from whyidle_probes.events import Wait

MIN_NS = 200_000_000
MIN_SHARE = 0.10
TURNS_SHARE = 0.05  # of a thread's waits at a place: what a reused address explains is less


def find(evidence: Evidence) -> list[dict[str, Any]]:
    """One finding for each lock, by the line that waits for it."""
    places: dict[tuple[Process, Any], list[Waiting]] = {}
    locks = (group for key, group in evidence.groups.items() if _is_lock(key) and group.handovers)
    for waiting in grouped(locks):
        where = waiting.place.where if waiting.place is not None else None
        places.setdefault((waiting.process, where), []).append(waiting)
    found = []
    for waits in places.values():
        turns = [waiting for waiting in waits if _takes_turns(waiting, waits)]
        if len(turns) >= 2:
            finding = _finding(evidence, turns)
            found += [finding] if finding is not None else []
    return found


def _is_lock(key: WaitKey) -> bool:
    role = key.place.role if key.place is not None else ""
    return key.wait == Wait.FUTEX and role != "work" and not (key.place and key.place.loop)


def _takes_turns(waiting: Waiting, others: list[Waiting]) -> bool:
    """Whether this thread waited for a partner that also waited for it."""
    mutual = 0
    for other in others:
        if other.tid == waiting.tid:
            continue
        mine, theirs = _turns(waiting, other), _turns(other, waiting)
        if waiting.place is None:
            # Without a stack the same line is not known: it has to be the same address.
            shared = set(mine) & set(theirs)
            mutual += sum(mine[address] for address in shared)
        elif mine and theirs:
            mutual += sum(mine.values())
    return mutual >= TURNS_SHARE * waiting.blocked_ns and mutual > 0


def _turns(waiter: Waiting, holder: Waiting) -> dict[int, int]:
    """How long ``waiter`` waited for ``holder``, by address."""
    return {
        address: ns
        for group in waiter.groups
        for (address, waker), ns in group.handovers.items()
        if waker == holder.tid
    }


def _finding(evidence: Evidence, turns: list[Waiting]) -> dict[str, Any] | None:
    def rank(waiting: Waiting) -> tuple[int, int, int]:
        drives = 2 if evidence.engines_of(waiting.process, waiting.tid) else 0
        return drives or int(waiting.tid == waiting.process.pid), waiting.blocked_ns, -waiting.tid

    enough = max(MIN_NS, MIN_SHARE * evidence.wall_ns)
    idle: Idle | None = None
    if evidence.engines:
        costs = [(waiting, idle_of(evidence, waiting)) for waiting in turns]
        guilty = [(waiting, cost) for waiting, cost in costs if cost is not None]
        if not guilty:
            return None
        worst, idle = max(guilty, key=lambda item: item[1].ns)
    else:
        long = [waiting for waiting in turns if waiting.blocked_ns >= enough]
        if not long:
            return None
        worst = max(long, key=rank)
    wakers = wakers_of(worst)
    holder = max(wakers, key=lambda tid: wakers[tid])
    who, other = (who_waits(evidence, worst.process, tid) for tid in (worst.tid, holder))
    doubts = []
    if worst.place is None:
        doubts.append("no stack was read: that it is a lock is concluded from who woke whom")
    if idle is None and worst.tid != worst.process.pid:
        doubts.append("not the main thread: that anybody waits for it is likely, not seen")
    return report_of(
        evidence,
        "lock_contention",
        worst,
        idle,
        doubts=doubts,
        saves_s=seconds(idle.ns if idle is not None else worst.blocked_ns),
        threads=len(turns),
        holder=holder,
        all_threads_s=seconds(sum(waiting.blocked_ns for waiting in turns)),
        advice=(
            f"{who}{in_function(worst.place)} waited {worst.number} times, {say(worst.blocked_ns)} in all, "
            f"for a lock that {len(turns)} threads share, mostly for {other[:1].lower()}{other[1:]}: hold it "
            "for less long (no I/O, sleep or computation inside), or give each thread its own data."
        ),
    )
