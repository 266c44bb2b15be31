"""How long each inference took, from the gaps between them. Pure.

An engine that is idle for less than the gap threshold (1 ms) between two calls is in one inference: the
driver picks the next token. So an inference lasts from the end of one gap to the beginning of the next.
"""

from __future__ import annotations

from typing import Final

from whyidle_probes.events import Gap

MAX_CONTEXTS: Final = 1024


class Inferences:
    """The end of the last gap of each model context."""

    def __init__(self) -> None:
        self._began: dict[tuple[int, int, int], int] = {}

    def ended(self, gap: Gap) -> float | None:
        """The inference before a gap, in seconds; ``None`` for the first gap of a context."""
        key = gap.target, gap.pid, gap.context
        began = self._began.pop(key, None)
        self._began[key] = gap.end_ns  # put last, so that the quiet ones are forgotten first
        if len(self._began) > MAX_CONTEXTS:
            del self._began[next(iter(self._began))]
        return (gap.start_ns - began) / 1e9 if began is not None and gap.start_ns >= began else None
