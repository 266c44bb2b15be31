"""What ``whyidle ps`` shows of one observation."""

from __future__ import annotations

from typing import Any

from whyidle_daemon.discovery.candidate import user_name
from whyidle_daemon.discovery.found import Found
from whyidle_daemon.facts import Snapshot
from whyidle_daemon.proc import Proc
from whyidle_daemon.sessions import Session
from whyidle_daemon.states import state_of
from whyidle_daemon.target import NS
from whyidle_probes.events import is_cuda

_MAX_ENGINES = 16
_MAX_COMMAND = 4096  # characters: a row is to be read, and there are many


def target_object(session: Session, found: Found | None, proc: Proc) -> dict[str, Any]:
    """One row; ``found`` is how discovery came to it, ``None`` for what a client asked for."""
    target = session.target
    snapshot = target.snapshot()
    progress = target.observation.progress(snapshot)
    owners = proc.owners(target.roots[0])
    uid = found.uid if found is not None else owners.effective if owners is not None else None
    placement = found.placement if found is not None else target.placement
    state, share = top_state(snapshot, target.roots)
    return {
        "observation": target.number,
        "pid": target.roots[0],
        "uid": uid,
        "user": user_name(uid) if uid is not None else None,
        "command": _clipped(target.observation.command),
        "container": placement.container._asdict() if placement.container is not None else None,
        "pod": placement.pod,
        "unit": placement.unit,
        "rule": found.rule if found is not None else None,
        "client": session.client.name if session.client is not None else None,
        "since": target.started_at,
        "observed_s": (snapshot.ns - target.start_ns) / NS,
        "processes": progress.processes,
        "threads": progress.threads,
        "engines": [
            *(
                {
                    "kind": "cuda" if is_cuda(engine.context) else "llama",
                    "pid": engine.pid,
                    "busy": engine.busy,
                    "calls": engine.calls,
                }
                for engine in snapshot.engines[:_MAX_ENGINES]
            ),
            *(
                {"kind": gpu.kind, "pid": gpu.pid, "busy": None, "calls": None, "id": gpu.gpu}
                for gpu in progress.gpus[:_MAX_ENGINES]
            ),
        ],
        "engine_busy_share": progress.engine_busy_share,
        "state": state,
        "state_share": share,
        "wait": progress.wait,
    }


def _clipped(command: tuple[str, ...]) -> list[str]:
    words, room = [], _MAX_COMMAND
    for word in command:
        if room <= 0:
            break
        words.append(word[:room])
        room -= len(word) + 1
    return words


def top_state(snapshot: Snapshot, roots: tuple[int, ...]) -> tuple[str | None, float | None]:
    """Where most of the time went, of the threads that drive an engine, else of the main threads.

    Returns the state and its share, 0 to 1; ``None`` when nothing is alive any more.
    """
    drivers = {(engine.pid, engine.driver) for engine in snapshot.engines}
    wanted = drivers or {(pid, pid) for pid in roots}
    sums: dict[str, int] = {}
    for thread in snapshot.threads:
        if (thread.pid, thread.tid) in wanted:
            for wait, ns in enumerate(thread.totals_at(snapshot.ns)):
                if ns:
                    state = state_of(wait)
                    sums[state] = sums.get(state, 0) + ns
    if not sums:
        return None, None
    state = max(sums, key=lambda name: sums[name])
    return state, sums[state] / sum(sums.values())
