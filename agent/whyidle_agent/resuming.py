"""What an interrupted run had done, read from its history file, so that the next one goes on from there.

Whatever ended it (Ctrl-C, a crash, a power cut), every step in the file is whole: a line without its end was
being written, and its step is taken again. With the same seed the model then makes the same choice.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whyidle_agent.calls import Call, Finish, call_of

MAX_LINE_BYTES = 1 << 20  # a longer one is not of this agent


@dataclass(frozen=True)
class Step:
    """One step that was taken. `call`: None where the model's answer was none; `said`: what it answered."""

    number: int
    call: Call | None
    said: str
    observation: str
    links: tuple[str, ...] = ()


@dataclass
class _Run:
    goal: str
    steps: list[Step] = field(default_factory=list)


def unfinished(path: Path, goal: str, loops: int) -> list[Step]:
    """Return the steps of the last run in the history at `path`; none when there is nothing to go on with.

    That is so when its goal was another one, when it came to its end, or when it used `loops` steps or more.
    Raises OSError.
    """
    run: _Run | None = None
    for record in _records(path):
        if isinstance(record.get("goal"), str):
            if run is None or not record.get("resumed"):
                run = _Run(record["goal"])
        elif run is not None:
            step = _step(record)
            if step is not None and step.number == len(run.steps) + 1:
                run.steps.append(step)
    if run is None or run.goal != goal or not run.steps or len(run.steps) >= loops:
        return []
    return [] if isinstance(run.steps[-1].call, Finish) else run.steps


def _step(record: dict[str, Any]) -> Step | None:
    number, said, seen = record.get("step"), record.get("said"), record.get("observation")
    links = record.get("links", [])
    if type(number) is not int or not isinstance(seen, str) or not isinstance(links, list):
        return None
    if record.get("call") is None:
        return Step(number, None, said, seen) if isinstance(said, str) else None
    try:
        call = call_of(record["call"])
    except ValueError:
        return None
    return Step(number, call, "", seen, tuple(link for link in links if isinstance(link, str)))


def _records(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        while line := file.readline(MAX_LINE_BYTES):
            if not line.endswith(b"\n"):
                while line and not line.endswith(b"\n"):
                    line = file.readline(MAX_LINE_BYTES)
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(record, dict):
                yield record
