"""Recordings to read: any records that the format allows, and a small observation with a known truth."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import timeline
from hypothesis import strategies as st

from whyidle_daemon.facts import (
    AwaitingTasks,
    EngineFacts,
    Host,
    LimitSample,
    Loss,
    MemorySample,
    Overhead,
    ProcessFacts,
    Site,
    Snapshot,
    StackSample,
)
from whyidle_daemon.recording.blocks import Header, blocks, read_file_header
from whyidle_daemon.recording.output import Output
from whyidle_daemon.recording.reader import ordered
from whyidle_daemon.recording.recorder import RecordedObservation
from whyidle_daemon.recording.records import KIND_OF, LAYOUTS
from whyidle_daemon.things import Thing
from whyidle_probes.events import STATES, Inference, Peer, Wait

_uint = st.integers(0, (1 << 64) - 1)
_small = st.integers(0, 1000)
_int = st.integers(-(1 << 31), (1 << 31) - 1)
_time = st.one_of(st.just(0), st.integers(1, (1 << 63) - 1))
# Surrogates too: names of files that are not valid Unicode.
_text = st.text(max_size=20)
_texts = st.lists(_text, max_size=4).map(tuple)
_port = st.integers(0, 65535)
_ip = st.binary(min_size=16, max_size=16)
_waits = st.lists(st.one_of(st.just(0), _uint), min_size=STATES, max_size=STATES).map(tuple)
_float = st.floats(allow_nan=False, allow_infinity=False)
_gpus = st.lists(st.dictionaries(_text, st.none() | _text | _int, max_size=3), max_size=2).map(tuple)
_host = st.builds(Host, _text, _uint, _gpus)
_peer = st.builds(Peer, _ip, _ip, _port, _port, *[_uint] * 4)
_site = st.builds(Site, _text, _text, st.none() | _uint, _texts)
_ports = st.lists(_port, max_size=3).map(tuple)
_awaiting = st.builds(
    AwaitingTasks, _text, _site, _text, _peer, _uint, _time, _ports, st.booleans(), st.booleans()
)
_ends = st.lists(_ip | _uint, max_size=2).map(tuple)
WORDS: dict[str, st.SearchStrategy[Any]] = {
    "uint": _uint,
    "uint?": st.none() | _uint,
    "int": _int,
    "int?": st.none() | _int,
    "time": _time,
    "bool": st.booleans(),
    "wait": st.integers(0, STATES - 1),
    "port": _port,
    "text": _text,
    "text?": st.none() | _text,
    "texts": _texts,
    "ip": _ip,
    "address": _ip | st.binary(min_size=4, max_size=4),
    "peer": _peer,
    "site": _site,
    "thing?": st.none() | st.builds(Thing, _text, _ends, _ends),
    "peers": st.lists(_peer, max_size=3).map(tuple),
    "awaiting": st.lists(_awaiting, max_size=3).map(tuple),
    "waits": _waits,
    "waits?": st.none() | _waits,
    "pids": st.lists(st.integers(0, (1 << 32) - 1), min_size=1, max_size=4).map(tuple),
    "host": _host,
    "loss": st.builds(Loss, *[_uint] * len(Loss._fields)),
    "overhead": st.builds(Overhead, _float, _uint, st.none() | _float),
}


def records_of(kind: int) -> st.SearchStrategy[Any]:
    """Any record of a kind."""
    layout = LAYOUTS[kind]
    return st.tuples(*(WORDS[word] for _, word in layout.fields)).map(lambda values: layout.cls(*values))


told = st.one_of([records_of(kind) for kind in KIND_OF.values()])
"""Anything that an observation is told."""

HOST, COST = Host("6.18.0", 2), Overhead(0.5, 30_000_000, None)


def record(path: Path, seconds: int = 6, finish: bool = True, output: Output | None = None) -> dict[str, Any]:
    """Record an agent that infers and searches in turn, one round a second; returns the live report.

    A block with a checkpoint follows each round, so the file has ``seconds + 1`` of them (the last one has
    the end); the report after n rounds is that of ``n`` seconds.
    """
    observation = RecordedObservation(
        timeline.START,
        (timeline.PID,),
        ("python", "agent\udcff.py"),
        "2026-01-01T00:00:00Z",
        outputs=[output or Output(str(path))],
        host=HOST,
    )
    recorder = observation.recorders[0]
    now = 0
    recorder._clock = lambda: now
    steps: list[timeline.Step] = []
    asleep = timeline.asleep(Wait.SLEEP, 100 * timeline.S)
    done = 0
    for second in range(seconds):
        now += 10  # every tick is due
        steps += [timeline.infer(300 * timeline.MS), timeline.call(700 * timeline.MS)]
        life = timeline.life(steps)
        for event in life.events[done:]:
            observation.add(event)
        done = len(life.events)
        at = life.end_ns
        site = Site("search", "agent.py", 7, ("search (agent.py:7)",))
        observation.add(StackSample(timeline.PID, timeline.PID, at - 700 * timeline.MS, site))
        observation.add(MemorySample(timeline.PID, at, 50_000_000 + second, 60_000_000))
        observation.add(LimitSample("cgroup", "/user", at, 50_000_000 + second, 60_000_000))
        observation.add(EngineFacts(timeline.PID, timeline.CONTEXT, at, 1024, 2 << 20, 13_000_000, "m.gguf"))
        began = at - timeline.S
        spent = (began, began + 300 * timeline.MS, 100 * timeline.MS, 200 * timeline.MS)
        fill = 60 * (second + 1)
        observation.add(Inference(1, timeline.PID, timeline.PID, timeline.CONTEXT, *spent, 40, 20, fill))
        observation.add(ProcessFacts(timeline.PID, 1, ("python", "agent.py"), "/user", at))
        sleeper = timeline.life([asleep], tid=9999, open_last=True).thread
        assert life.engine is not None
        totals = Snapshot(at, ordered((life.thread, sleeper)), (life.engine,)), Loss(slices_lost=second), COST
        recorder.tick(lambda totals=totals: totals)  # type: ignore[misc]
    report = observation.report(totals[0], HOST, totals[1], totals[2], 3)
    if finish:
        recorder.finish(*totals, 3)
    else:
        recorder.close()
    report["recording"] = recorder.state()
    return report


def headers(data: bytes) -> list[Header]:
    """Of all blocks."""
    file = io.BytesIO(data)
    read_file_header(file, "x")
    return [header for header, _ in blocks(file)]
