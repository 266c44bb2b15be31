"""The one error of this package."""

from __future__ import annotations

from typing import Literal

Reason = Literal["gone", "not_python", "unsupported", "torn", "unreadable", "no_thread"]
"""Why there is no stack:

``gone``
    the process ended or replaced its image.
``not_python``
    no CPython runtime is mapped.
``unsupported``
    a runtime of a version or build whose layout is unknown here.
``torn``
    what was read does not fit together: the thread ran meanwhile, or the memory is not what it claims.
``unreadable``
    no permission, or a pointer to memory that is not there.
``no_thread``
    the process has no Python thread of that TID.
"""


class StackError(Exception):
    """No trustworthy stack, with the :data:`Reason` in one word and a detail for the log."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason: Reason = reason
        self.detail = detail
