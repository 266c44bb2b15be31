"""A start comes before what the host computes: until the probes are attached, the daemon sees nothing.

Where it may not it starts as everything else does: a service has no CAP_SYS_NICE; there systemd decides, by
``CPUWeight=``.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

BY: Final = 10  # steps of nice: nine times the share of a CPU
_given: list[int] = []


def raise_it() -> None:
    """From now on this process, and what it starts, comes before others, by as much as it did before."""
    given = os.getpriority(os.PRIO_PROCESS, 0)
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, given - BY)
        _given.append(given)


def restore() -> None:
    """All threads of this process are as before :func:`raise_it` again. Idempotent.

    But for one that kept capabilities which this thread has dropped, and so is none of the daemon's.
    """
    if not _given:
        return
    given = _given.pop()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.setpriority(os.PRIO_PROCESS, int(task.name), given)
