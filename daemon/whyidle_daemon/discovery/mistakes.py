"""Mistakes of ours in a look at a process: told, and lived with."""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)


class Mistakes:
    """Those that were told: once of each kind, as there may be one with every look."""

    def __init__(self) -> None:
        self._told: set[type[Exception]] = set()

    def say(self, error: Exception) -> None:
        """Called where it is handled."""
        if type(error) not in self._told:
            self._told.add(type(error))
            log.exception("a look at processes failed; discovery goes on, and tells this kind once")
