"""The report's ``loops``: what each event loop waited for, by task. Pure formatting."""

from __future__ import annotations

from collections.abc import Iterable

from whyidle_daemon.attribution import ThreadTime
from whyidle_daemon.facts import AwaitingTasks
from whyidle_daemon.hosts import Hosts
from whyidle_daemon.loops import TASK, Loop, Loops, Row
from whyidle_daemon.processes import Process
from whyidle_daemon.states import peer_object
from whyidle_probes.events import Peer
from whyidle_wire import report as wire

NS = 1_000_000_000
MAX_LOOPS = 50
MAX_TASKS = 20
MAX_TEXT = 500


def loop_objects(loops: Loops, times: Iterable[ThreadTime], hosts: Hosts) -> list[wire.Loop]:
    """The loops that were seen to wait, those first that waited longest."""
    waited = {(time.process, time.tid): time.selecting_ns for time in times}
    ranked = sorted(
        loops,
        key=lambda loop: (-waited.get((loop.process, loop.tid), loop.read_ns), loop.process.pid, loop.tid),
    )
    return [
        _loop(loop, waited.get((loop.process, loop.tid), loop.read_ns), hosts) for loop in ranked[:MAX_LOOPS]
    ]


def _loop(loop: Loop, waited_ns: int, hosts: Hosts) -> wire.Loop:
    rows = sorted(loop.rows.values(), key=_rank)
    last = loop.last
    return {
        "pid": loop.process.pid,
        "tid": loop.tid,
        "waiting_s": waited_ns / NS,
        "read_s": loop.read_ns / NS,
        "reason": last.reason[:MAX_TEXT] or None,
        "tasks_total": last.total if not last.reason else None,
        "tasks": [_task(row, loop.process, hosts) for row in rows[:MAX_TASKS]],
        "tasks_omitted": len(rows[MAX_TASKS:]),
        "sockets": [
            named
            for peer in last.sockets
            if (named := _peer(peer, loop.process, hosts, last.since_ns)) is not None
        ],
    }


def _rank(row: Row) -> tuple[bool, int, str]:
    return row.last.kind == TASK, -row.waited_ns * row.number, str(row.last.site[:3])


def _task(row: Row, process: Process, hosts: Hosts) -> wire.LoopTask:
    one = row.last
    return {
        "name": one.name[:MAX_TEXT] or None,
        "function": one.site.function[:MAX_TEXT],
        "file": one.site.file[:MAX_TEXT],
        "line": one.site.line,
        "chain": [frame[:MAX_TEXT] for frame in one.site.stack],
        "waits_for": "client" if one.inbound else one.kind,
        "peer": _peer(one.peer, process, hosts, one.since_ns),
        "confidence": _confidence(one),
        "count": row.number,
        "waited_s": row.waited_ns / NS,
        "longest_s": row.longest_ns / NS,
    }


def _confidence(one: AwaitingTasks) -> wire.Confidence:
    """A socket is one of those that the selector waits for; what kind of future it is may be hidden."""
    return "low" if one.kind == "future" else "high"


def _peer(peer: Peer, process: Process, hosts: Hosts, ns: int) -> wire.Peer | None:
    found = peer_object(peer.family, peer.remote, peer.remote_port)
    if found is not None:
        host, path = hosts.of(process, (peer.family, peer.remote, peer.remote_port), ns)
        found["host"] = host
        if path is not None:
            found["path"] = path
    return found
