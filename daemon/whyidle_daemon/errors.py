"""What ends the daemon before it serves."""

from __future__ import annotations


class StartError(Exception):
    """The daemon cannot start: what happened, what to do, and the exit code."""

    def __init__(self, message: str, fix: str, code: int = 1) -> None:
        super().__init__(message)
        self.fix = fix
        self.code = code
