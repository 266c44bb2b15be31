"""What a subscriber is told of a kernel event."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from whyidle_daemon.subscribers import Subscribers
from whyidle_probes.events import Exit
from whyidle_wire.records import ProcessEvent


@pytest.mark.parametrize(("code", "status"), [(0, 0), (3 << 8, 3), (9, 137), (11 | 0x80, 139)])
def test_the_status_of_a_process_is_a_shells(code: int, status: int) -> None:
    """128 + the signal that killed it, as everywhere else."""
    subscribers = Subscribers.__new__(Subscribers)
    session = cast(Any, SimpleNamespace(target=SimpleNamespace(number=1)))
    told = subscribers._event_record(session, Exit(1, 5, 42, code, 0, "sh"))
    assert isinstance(told, ProcessEvent)
    assert told.exit_status == status
