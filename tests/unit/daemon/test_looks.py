"""What looking at the processes of one target may cost."""

from __future__ import annotations

from whyidle_daemon.looks import Looks


class Clock:
    """A clock, and the CPU time that goes with it."""

    def __init__(self) -> None:
        self.now = self.cpu = 100.0

    def spend(self, seconds: float) -> None:
        self.now += seconds
        self.cpu += seconds


def test_long_looks_take_a_tenth_of_the_daemon() -> None:
    """A process with a hundred thousand mappings, which maps a library all the time."""
    clock = Clock()
    looks = Looks(lambda: clock.now, lambda: clock.cpu)
    taken = 0.0
    while clock.now < 200.0:
        with looks.charged() as allowed:
            if allowed:
                clock.spend(0.2)
                taken += 0.2
        clock.now += 0.002
    assert taken / 100 < 0.12


def test_short_looks_are_free() -> None:
    """A program that starts is looked at every two milliseconds until its library is there."""
    clock = Clock()
    looks = Looks(lambda: clock.now, lambda: clock.cpu)
    for _ in range(340):
        with looks.charged() as allowed:
            assert allowed
            clock.spend(0.0002)
        assert not looks.spent
        clock.now += 0.002
