"""Who used a GPU, how much of its memory, and in which state it was meanwhile. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

from whyidle_daemon.facts import GpuFacts, GpuSample, GpuUse
from whyidle_daemon.processes import Process

MAX_USERS = 256
NS = 1_000_000_000

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
    def __init__(self) -> None:
        self.memory_peak: int | None = None
        self.utilization_sum = self.utilization_count = 0


class Usage:
    """Of one GPU, by one target."""

    def __init__(self) -> None:
        self.users: dict[Process, _User] = {}
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
        """The process that had the most memory of it; the first one seen of those that are equal."""
        return max(self.users, key=lambda process: self.users[process].memory_peak or 0, default=None)

    def use(self, process: Process, use: GpuUse) -> None:
        """A process was seen using it."""
        user = self.users.get(process)
        if user is None:
            if len(self.users) >= MAX_USERS:
                return
            user = self.users[process] = _User()
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
