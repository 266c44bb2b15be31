"""How often the daemon looks: as seldom as what is observed allows."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, cast

import pytest

from whyidle_daemon.pulse import BEAT_S, CALM_BEAT_S, SLOW_BEAT_S, Pulse


class Observed:
    """Sessions, targets, kernel and subscribers in one: what a pulse asks them."""

    def __init__(self) -> None:
        self.attended, self.have_engines, self.code, self.listeners = True, False, False, 0
        self.learning = self.launch_kernels = False
        self.rests: list[bool] = []
        self.read: list[bool] = []
        self.kernel = self.target = self

    def __iter__(self) -> Iterator[Observed]:
        return iter([self])

    def __len__(self) -> int:
        return self.listeners

    def __bool__(self) -> bool:
        return True

    def has_work(self, within_s: float) -> bool:
        assert within_s == SLOW_BEAT_S
        return self.code

    def rest(self, resting: bool) -> None:
        self.rests.append(resting)

    def consume(self, _: int) -> int:
        self.code = bool(self.read) and self.read.pop()
        return 0

    def retry_libraries(self) -> bool:
        return False


def pulse_of(seen: Observed) -> Pulse:
    return Pulse(cast(Any, seen), cast(Any, seen), cast(Any, [None] * seen.listeners))


@pytest.mark.parametrize(
    ("what", "beat", "rests"),
    [
        ({}, SLOW_BEAT_S, True),
        ({"code": True}, BEAT_S, False),
        ({"have_engines": True}, BEAT_S, False),
        ({"listeners": 1}, BEAT_S, False),
        ({"attended": False, "code": True, "learning": True}, SLOW_BEAT_S, False),
        ({"attended": False, "code": True}, CALM_BEAT_S, False),
        ({"attended": False, "launch_kernels": True}, SLOW_BEAT_S, False),
    ],
    ids=["nothing to read", "python", "an engine", "a subscriber", "nobody waits", "nothing is new", "CUDA"],
)
def test_it_beats_fast_only_where_there_is_something_to_see(
    what: dict[str, Any], beat: float, rests: bool
) -> None:
    """And only a rest that a client waits through is to be broken by a new program."""

    async def scheduled() -> float:
        seen = Observed()
        for name, value in what.items():
            setattr(seen, name, value)
        pulse = pulse_of(seen)
        pulse.schedule()
        assert pulse._timer is not None
        due = pulse._timer.when() - asyncio.get_running_loop().time()
        pulse._timer.cancel()
        assert seen.rests == [rests]
        return due

    assert beat / 2 < asyncio.run(scheduled()) <= beat


def test_a_new_program_ends_the_rest_at_once() -> None:
    """The timer of the slow beat is not waited for."""

    async def woken() -> float:
        seen = Observed()
        pulse = pulse_of(seen)
        pulse.schedule()
        slow = pulse._timer
        seen.read = [True]
        pulse._on_wakeup()
        assert slow is not None
        assert slow.cancelled()
        assert pulse._timer is not None
        due = pulse._timer.when() - asyncio.get_running_loop().time()
        pulse._timer.cancel()
        assert seen.rests == [True, False]
        return due

    assert asyncio.run(woken()) <= BEAT_S
