"""Answers of the name service, kept for a while: it may be slow, and the event loop waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

KEPT_S: Final = 60.0
"""So long what has changed since is not noticed."""
MAX_KEPT: Final = 1024

Key = TypeVar("Key", bound=Hashable)
Answer = TypeVar("Answer")


class Remembered(Generic[Key, Answer]):
    """``look_up``, asked at most once in ``KEPT_S`` for each of the last ``MAX_KEPT`` keys."""

    def __init__(self, look_up: Callable[[Key], Answer], clock: Callable[[], float] = time.monotonic) -> None:
        self._look_up, self._clock = look_up, clock
        self._known: dict[Key, tuple[float, Answer]] = {}

    def __call__(self, key: Key) -> Answer:
        now = self._clock()
        known = self._known.get(key)
        if known is not None and now - known[0] < KEPT_S:
            return known[1]
        self._known.pop(key, None)
        answer = self._look_up(key)
        while len(self._known) >= MAX_KEPT:
            del self._known[next(iter(self._known))]
        self._known[key] = (
            self._clock(),
            answer,
        )  # a look-up that took a minute is not asked for again at once
        return answer
