"""What discovery found, as those see it who list it."""

from __future__ import annotations

from dataclasses import dataclass

from whyidle_daemon.discovery.placement import Placement


@dataclass(frozen=True)
class Found:
    """A process that is observed because a rule names it; ``started`` tells it from later ones of its PID."""

    pid: int
    uid: int | None
    user: str
    command: tuple[str, ...]
    placement: Placement
    rule: str
    started: int | None = None
