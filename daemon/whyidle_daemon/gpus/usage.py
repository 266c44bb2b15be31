"""Who used a GPU, how much of its memory, and in which state it was meanwhile. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from whyidle_daemon.facts import GpuFacts, GpuSample, GpuUse
from whyidle_daemon.intervals import united
from whyidle_daemon.processes import Process

MAX_USERS = 256
NS = 1_000_000_000
EVER = 1 << 64
LOOK_NS = 500_000_000
"""As long before it is seen, at most, a process may have begun to use a GPU that is looked at already."""

THROTTLES = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal",
    0x40: "hardware thermal",
    0x80: "power brake",
}
"""NVML's clocks-event reasons that cost speed; not idle clocks, nor clocks that somebody set."""


class DeviceActivity(NamedTuple):
    """What a GPU's engine has besides busy and idle. Bytes, nanoseconds, watts; ``None`` is unknown."""

    name: str | None
    copy_ns: int
    scattered_ns: int
    unseen_ns: int
    unknown: tuple[str, ...]
    memory_peak_bytes: int | None
    power_mean_w: float | None
    throttled: dict[str, float]
    users: tuple[dict[str, Any], ...]
    others: int
    holders: tuple[Process, ...] = ()

    def fields(self) -> dict[str, Any]:
        """Of the report's engine object."""
        return {
            "name": self.name,
            "copy_s": self.copy_ns / NS,
            "idle_scattered_s": self.scattered_ns / NS,
            "unseen_s": self.unseen_ns / NS,
            "unknown": list(self.unknown),
            "memory_peak_bytes": self.memory_peak_bytes,
            "power_mean_w": self.power_mean_w,
            "throttled": self.throttled,
            "processes": list(self.users),
            "other_processes": self.others,
        }


def is_gpu(engine: dict[str, Any]) -> bool:
    """Whether an engine of a report is a GPU: it has what a :class:`DeviceActivity` adds."""
    return "copy_s" in engine


class _User:
    def __init__(self, since_ns: int) -> None:
        self.since_ns = since_ns
        self.memory_peak: int | None = None
        self.utilization_sum = self.utilization_count = 0


class Usage:
    """Of one GPU, by one target."""

    def __init__(self) -> None:
        self.users: dict[Process, _User] = {}
        self._past: list[tuple[int, int]] = []  # when those lived that there was no room for any more
        self._memory_ns = -1
        self._memory_now = 0
        self._memory_peak: int | None = None
        self._others = 0
        self._power = [0, 0]
        self._throttle: dict[int, int] = {}
        self._throttle_samples = 0
        self._lost: dict[str, int] = {}

    @property
    def main_user(self) -> Process | None:
        """Of those who live, or of all if none does, the one that had the most memory of it.

        The first one seen of those that are equal.
        """
        users = self.users
        return max(users, key=lambda one: (not one.end_ns, users[one].memory_peak or 0), default=None)

    def chooser(self) -> Callable[[int, int], Process]:
        """Who is asked why the GPU was idle in an interval, by those who use it as they are now.

        Of those who lived for half of it at least, the one that had the most memory; else who lived longest.
        """
        lives = [(*self._time(one), user.memory_peak or 0, one) for one, user in self.users.items()]

        def choose(start_ns: int, end_ns: int) -> Process:
            def fit(life: tuple[int, int, int, Process]) -> tuple[bool, int, int]:
                begin, end, memory, _ = life
                lived = max(0, min(end, end_ns) - max(begin, start_ns))
                much = 2 * lived >= end_ns - start_ns
                return much, memory if much else 0, lived

            return max(lives, key=fit)[-1] if len(lives) > 1 else lives[0][-1]

        return choose

    @property
    def over(self) -> bool:
        """Whether all who used it have ended: what it does now is no business of the target's."""
        return bool(self.users) and all(process.end_ns for process in self.users)

    def times(self, open_ns: int) -> list[tuple[int, int]]:
        """When somebody who used it lived; from ``open_ns`` on, nobody knows yet who does."""
        return united([*self._past, *map(self._time, self.users), (open_ns, EVER)])

    def _time(self, process: Process) -> tuple[int, int]:
        since_ns = self.users[process].since_ns
        return max(since_ns, process.start_ns) if since_ns else 0, process.end_ns or EVER

    def _forget(self) -> bool:
        """Make room for another user: the one who ended first goes, if one has ended."""
        ended = min((one for one in self.users if one.end_ns), key=lambda one: one.end_ns, default=None)
        if ended is None:
            return False
        self._past = united([*self._past, self._time(ended)])[-MAX_USERS:]
        del self.users[ended]
        return True

    def use(self, process: Process, use: GpuUse) -> None:
        """A process was seen using it."""
        user = self.users.get(process)
        if user is None:
            if len(self.users) >= MAX_USERS and not self._forget():
                return
            # The first one is seen before anything is told of the GPU: all of that is its.
            user = self.users[process] = _User(use.ns - LOOK_NS if self.users else 0)
        self._others = max(self._others, use.others)
        if use.utilization is not None:
            user.utilization_sum += min(1000, use.utilization)
            user.utilization_count += 1
        if use.memory_bytes is not None:
            user.memory_peak = max(user.memory_peak or 0, use.memory_bytes)
            self._memory_now = use.memory_bytes + (self._memory_now if use.ns == self._memory_ns else 0)
            self._memory_ns = use.ns
            self._memory_peak = max(self._memory_peak or 0, self._memory_now)

    def sample(self, sample: GpuSample) -> None:
        """Its state was read, or could not be."""
        if self.over:
            return
        if sample.lost:
            if sample.lost in self._lost or len(self._lost) < 8:
                self._lost[sample.lost] = self._lost.get(sample.lost, 0) + 1
            return
        if sample.power_mw is not None:
            self._power[0] += sample.power_mw
            self._power[1] += 1
        if sample.throttle is not None:
            self._throttle_samples += 1
            for bit in THROTTLES:
                if sample.throttle & bit:
                    self._throttle[bit] = self._throttle.get(bit, 0) + 1

    def device(
        self, facts: GpuFacts | None, copy_ns: int, scattered_ns: int, unseen_ns: int
    ) -> DeviceActivity:
        """All of it, for the report."""
        unknown = [*(facts.unknown if facts is not None else ()), *self._lost]
        if self._memory_peak is None:
            unknown.append("memory by process: the driver does not say")
        total, count = self._power
        return DeviceActivity(
            facts.name if facts is not None else None,
            copy_ns,
            scattered_ns,
            unseen_ns,
            tuple(unknown),
            self._memory_peak,
            total / count / 1000 if count else None,
            {THROTTLES[bit]: n / self._throttle_samples for bit, n in sorted(self._throttle.items())},
            tuple(
                {
                    "pid": process.pid,
                    "memory_peak_bytes": user.memory_peak,
                    "utilization_mean": user.utilization_sum / user.utilization_count / 1000
                    if user.utilization_count
                    else None,
                }
                for process, user in sorted(self.users.items(), key=lambda item: item[0].pid)
            ),
            self._others,
            tuple(self.users),
        )
