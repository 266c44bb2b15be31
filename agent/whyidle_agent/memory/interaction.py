"""What is remembered: the calls and results of the history file, read from where the last reading ended."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whyidle_agent.text import encodable

MAX_LINE_BYTES = 1 << 20  # of the history; a longer one is not of this agent and is passed over
MAX_TEXT = 2000  # characters of one interaction


@dataclass(frozen=True, slots=True)
class Interaction:
    """One thing that happened: what the model called (`kind` "call"), or what came of it ("result")."""

    step: int
    kind: str
    text: str

    @property
    def digest(self) -> bytes:
        """Return what is equal for equal texts, whatever their case and spacing."""
        return hashlib.sha256(" ".join(self.text.casefold().split()).encode()).digest()[:16]


def interactions(record: object) -> tuple[Interaction, ...]:
    """Return what a line of the history holds: nothing, or a call and its result."""
    if not isinstance(record, dict):
        return ()
    step, call, result = record.get("step"), record.get("call"), record.get("observation")
    if type(step) is not int or not isinstance(call, dict) or not isinstance(result, str):
        return ()
    texts = [("call", _in_words(call)), ("result", result[:MAX_TEXT])]
    return tuple(Interaction(step, kind, encodable(text)) for kind, text in texts if text.strip())


def read_from(path: Path, offset: int) -> Iterator[tuple[int, tuple[Interaction, ...]]]:
    """Yield what each complete line after byte `offset` of the history holds, with the offset of its end.

    A file that is shorter than `offset` is another one and is read from its beginning. Raises OSError.
    """
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size < offset:
            offset = 0
        file.seek(offset)
        while line := file.readline(MAX_LINE_BYTES):
            offset += len(line)
            while not line.endswith(b"\n"):  # too long, or not written to its end
                more = file.readline(MAX_LINE_BYTES)
                if not more:
                    return
                offset += len(more)
                line = more[-1:]
            yield offset, interactions(_parsed(line))


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _in_words(call: dict[str, Any]) -> str:
    """Return a call as text: its tool, its thought and its arguments, without JSON's punctuation."""
    words: list[str] = []
    for value in call.values():
        parts = value if isinstance(value, list) else [value]
        words += [part for part in parts if isinstance(part, str)]
    return " ".join(words)[:MAX_TEXT]
