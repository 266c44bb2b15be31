"""Tells the observation of a target what was found out, whichever observation it is by now."""

from __future__ import annotations

from whyidle_daemon.facts import Snapshot
from whyidle_daemon.observation import Anything, Observation
from whyidle_daemon.rebase import Base


class Telling:
    """Held by what finds something out, in place of the target, which holds those.

    ``base`` is where the observation began, if it is not the target's first.
    """

    def __init__(self) -> None:
        self.observation: Observation
        self.base: Base | None = None

    def tell(self, record: Anything) -> None:
        """Everything that the observation is told in its order, seen from where it began."""
        seen = self.base.record(record) if self.base is not None else record
        if seen is not None:
            self.observation.add(seen)

    def rebased(self, snapshot: Snapshot) -> Snapshot:
        """The kernel's totals since the observation began."""
        return self.base.snapshot(snapshot) if self.base is not None else snapshot
