"""The agent's own account of a run: what an observer's report is checked against.

All times are seconds on CLOCK_MONOTONIC, which every process on the host shares.
"""

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from whyidle_agent.errors import AgentError
from whyidle_agent.paths import write_atomically

SCHEMA = "whyidle.agent-stats/1"
MAX_CALLS = 128  # in the list: a run is not to grow by its own account, nor long until that is full


@dataclass(slots=True)
class ToolCall:
    """One call of one tool. `ok` is None while it runs: a call cut short by Ctrl-C keeps it."""

    tool: str
    step: int
    start: float
    duration_s: float = 0.0
    ok: bool | None = None


@dataclass
class Stats:
    """The account. `outcome`: finished, loops (all used up), interrupted or failed."""

    outcome: str = "failed"
    started: float = field(default_factory=time.monotonic)
    wall_s: float = 0.0
    engine_since: float = 0.0  # when the model began to load
    load_s: float = 0.0  # of the model, without importing its library
    inference_s: float = 0.0  # thinking: decode, sampling, grammar
    decode_s: float | None = 0.0  # inside llama_decode alone, part of inference_s; None: not in this process
    decode_calls: int | None = 0
    steps: int = 0
    resumed: int = 0  # of these, taken by the interrupted run before
    tokens: int = 0  # generated
    embed_s: float = 0.0  # making embeddings, in an engine of its own
    memory: dict[str, Any] | None = None  # the memory's account, when there is one
    tool_calls: list[ToolCall] = field(default_factory=list)
    earlier_calls: int = 0  # that are not in the list any more
    earlier_calls_s: float = 0.0  # the time in which at least one of those ran

    @property
    def complete(self) -> bool:
        """Return whether the run came to its end, so that there is nothing to go on with."""
        return self.outcome in ("finished", "loops")

    @property
    def tools_s(self) -> float:
        """Return the time in which at least one tool ran."""
        return self.earlier_calls_s + _together_s(self.tool_calls)

    @contextmanager
    def calling(self, tool: str, step: int) -> Iterator[ToolCall]:
        """Account for one tool call; its duration is kept also when it is interrupted."""
        if len(self.tool_calls) >= MAX_CALLS and step != self.tool_calls[-1].step:
            # Between two steps no call runs, so none is cut off from one that it overlaps.
            self.earlier_calls += len(self.tool_calls)
            self.earlier_calls_s += _together_s(self.tool_calls)
            self.tool_calls.clear()
        call = ToolCall(tool, step, time.monotonic())
        self.tool_calls.append(call)
        try:
            yield call
        finally:
            call.duration_s = time.monotonic() - call.start

    def as_json(self) -> dict[str, Any]:
        """Return the account as a JSON object."""
        return {"schema": SCHEMA, **asdict(self), "tools_s": self.tools_s}

    def save(self, path: Path) -> None:
        """Write the account to `path`, whole or not at all; raises AgentError."""
        try:
            write_atomically(path, (json.dumps(self.as_json(), indent=2) + "\n").encode())
        except OSError as error:
            raise AgentError(f"cannot write {path}: {error.strerror}", "give another --stats FILE") from error


def _together_s(calls: list[ToolCall]) -> float:
    total, until = 0.0, -math.inf
    for call in sorted(calls, key=lambda call: call.start):
        end = call.start + call.duration_s
        total += max(0.0, end - max(call.start, until))
        until = max(until, end)
    return total
