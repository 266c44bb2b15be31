"""What the agent has done so far: as a prompt within a token budget, and as a file for the reader.

The prompt only ever grows at its end, because llama.cpp then evaluates only what is new. When the budget is
spent, the oldest steps go, a quarter of the budget at once: the whole prompt has to be evaluated again
after a cut, and cutting a step at a time would make that happen in every step. With a summary, they leave
a line each.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from whyidle_agent.errors import AgentError
from whyidle_agent.memory.summary import Summary

HISTORY_FILE = "history.jsonl"
_KEPT_AFTER_CUT = 0.75


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
        self._fixed = count(introduction)
        self._steps: list[tuple[str, int, str]] = []
        self._summary = summary
        self.dropped = 0

    def add(self, step: int, answer: str, observation: str, line: str = "") -> None:
        """Append what the model wrote in `step` (counted from 1) and what came of it; `line`: in short."""
        text = f"{answer}\nResult: {observation}\nStep {step + 1}:\n"
        self._steps.append((text, self._count(text), line))
        if self._budget is not None and self.tokens() > self._budget:
            while self._steps and self.tokens() > self._budget * _KEPT_AFTER_CUT:
                self._drop()

    def _drop(self) -> None:
        _, _, line = self._steps.pop(0)
        self.dropped += 1
        if self._summary is not None:
            self._summary.add([line])
            self._fixed = self._count(self._introduction) + self._count(self._summary.text())

    def tokens(self) -> int:
        """Return the number of tokens of the prompt, exact but for merges across the joints."""
        return self._fixed + sum(count for _, count, _ in self._steps)

    def prompt(self) -> str:
        """Return the prompt for the next step."""
        summary = self._summary.text() if self._summary is not None else ""
        return self._introduction + summary + "".join(text for text, _, _ in self._steps)


class HistoryFile:
    """`history.jsonl` in the work folder: one JSON object per line, each on disk before the next step begins.

    Runs are appended, each beginning with a line that has the key "goal", so an interrupted run or a
    second one loses nothing.
    """

    def __init__(self, folder: Path) -> None:
        """Open the file for appending; raises AgentError."""
        self.path = folder / HISTORY_FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            self._file: TextIO = os.fdopen(os.open(self.path, flags, 0o644), "a", encoding="utf-8")
        except OSError as error:
            raise AgentError(
                f"cannot write {self.path}: {error.strerror}", "give another folder with --workdir DIR"
            ) from error

    def append(self, record: dict[str, Any]) -> None:
        """Write one record and hand it to the kernel; raises AgentError when the disk is full."""
        try:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        except OSError as error:
            raise AgentError(
                f"cannot write {self.path}: {error.strerror}",
                "make room, or give another folder with --workdir DIR",
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()
