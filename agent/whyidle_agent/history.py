"""What the agent has done so far: as a prompt within a token budget, and as a file for the reader.

The prompt only ever grows at its end, because llama.cpp then evaluates only what is new. When the budget is
spent, the oldest steps go, a quarter of the budget at once: the whole prompt has to be evaluated again
after a cut, and cutting a step at a time would make that happen in every step. With a summary, they leave
a line each. The last plan stays, whatever goes.
"""

import fcntl
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from whyidle_agent.errors import AgentError
from whyidle_agent.memory.summary import Summary
from whyidle_agent.text import for_prompt

HISTORY_FILE = "history.jsonl"
_KEPT_AFTER_CUT = 0.75
_BLOCK = 1 << 16
_PLAN = "Plan:\n"
_PLANNED, _PLANNED_CHARACTERS = 12, 120  # steps of a plan, and of each, that stay when it has left the prompt


class _Step(NamedTuple):
    text: str
    tokens: int
    line: str
    plan: str


class History:
    """The prompt: an introduction that always stays, and as many of the latest steps as the budget allows."""

    def __init__(
        self,
        introduction: str,
        budget: int | None,
        count: Callable[[str], int],
        summary: Summary | None = None,
    ) -> None:
        """`budget`: tokens of the whole prompt, None for no end; `count`: the number of tokens of a text.

        `summary` gets a line of each step that goes, and stands between introduction and steps.
        """
        self._introduction = introduction
        self._budget = budget
        self._count = count
        self._fixed = self._introduced = count(introduction)
        self._steps: list[_Step] = []
        self._plan = ""  # the last one that left with its step, unless there is a later one
        self._summary = summary
        self.dropped = 0

    def add(self, step: int, answer: str, observation: str, line: str = "", plan: Sequence[str] = ()) -> None:
        """Append what the model wrote in `step` (counted from 1) and what came of it.

        `line`: the same in short. `plan`: the steps that it planned, if that is what it did.
        """
        text = f"{answer}\nResult: {observation}\nStep {step + 1}:\n"
        self._steps.append(_Step(text, self._count(text), line, _numbered(plan)))
        if self._budget is not None and self.tokens() > self._budget:
            while self._steps and self.tokens() > self._budget * _KEPT_AFTER_CUT:
                self._drop()

    def _drop(self) -> None:
        gone = self._steps.pop(0)
        self.dropped += 1
        later = any(step.plan for step in self._steps)
        self._plan = "" if later else self._fitting(gone.plan) or self._plan
        if self._summary is not None and not gone.plan:
            self._summary.add([gone.line])
        self._fixed = self._introduced + self._count(self._head())

    def _fitting(self, plan: str) -> str:
        """Return as many of a plan's lines as take up half of what the introduction leaves."""
        assert self._budget is not None
        room = (self._budget - self._introduced) // 2
        while plan and self._count(plan) > room:
            plan = plan[: plan[:-1].rfind("\n") + 1]
        return "" if plan == _PLAN else plan

    def _head(self) -> str:
        return self._plan + (self._summary.text() if self._summary is not None else "")

    def tokens(self) -> int:
        """Return the number of tokens of the prompt, exact but for merges across the joints."""
        return self._fixed + sum(step.tokens for step in self._steps)

    def prompt(self) -> str:
        """Return the prompt for the next step."""
        return self._introduction + self._head() + "".join(step.text for step in self._steps)


def _numbered(plan: Sequence[str]) -> str:
    if not plan:
        return ""
    steps = (for_prompt(step, _PLANNED_CHARACTERS) for step in plan[:_PLANNED])
    return _PLAN + "".join(f"{number}. {step}\n" for number, step in enumerate(steps, 1))


class HistoryFile:
    """`history.jsonl` in the work folder: one JSON object per line, each on disk before the next step begins.

    Runs are appended, each beginning with a line that has the key "goal", so an interrupted run or a
    second one loses nothing. Only one agent at a time writes it.
    """

    def __init__(self, folder: Path) -> None:
        """Open the file for appending; raises AgentError. A line without its end, of a crash, is cut off."""
        self.path = folder / HISTORY_FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            self._file = os.fdopen(os.open(self.path, flags, 0o644), "ab", buffering=0)
        except OSError as error:
            raise _cannot_write(self.path, error) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _cut_torn_line(self._file.fileno())
            _sync_folder(folder)
        except BlockingIOError as error:
            self._file.close()
            raise AgentError(
                f"another agent runs in {folder}", "wait for it, or give another folder with --workdir DIR"
            ) from error
        except OSError as error:
            self._file.close()
            raise _cannot_write(self.path, error) from error

    def append(self, record: dict[str, Any]) -> None:
        """Write one record; it is on disk when this returns. Raises AgentError when the disk is full."""
        line = (json.dumps(record) + "\n").encode()
        try:
            while line:
                line = line[self._file.write(line) :]
            os.fdatasync(self._file.fileno())
        except OSError as error:
            raise AgentError(
                f"cannot write {self.path}: {error.strerror}",
                "make room, then run it again: it goes on from the last whole step",
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _cut_torn_line(handle: int) -> None:
    size = os.fstat(handle).st_size
    end = size
    while end > 0:
        start = max(0, end - _BLOCK)
        block = os.pread(handle, end - start, start)
        if (at := block.rfind(b"\n")) >= 0:
            end = start + at + 1
            break
        end = start
    if end < size:
        os.ftruncate(handle, end)


def _sync_folder(folder: Path) -> None:
    """Put the file's name on disk: without it a power cut could take the file with it."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _cannot_write(path: Path, error: OSError) -> AgentError:
    return AgentError(f"cannot write {path}: {error.strerror}", "give another folder with --workdir DIR")
