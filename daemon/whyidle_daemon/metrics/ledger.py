"""Sums over everything that was observed since the daemon began, by workload. Pure.

A report has sums of one observation, which ends or is cut: the ledger adds them up. A counter never goes
back: a later report may put a wait down to another state than an earlier one did, and then the sum of the old
one stays where it was until it is overtaken.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from whyidle_daemon.gpus.usage import is_gpu
from whyidle_daemon.metrics.gpus import GpuSeconds
from whyidle_daemon.metrics.workloads import OTHER, Workloads

MAX_FUNCTIONS: Final = 200
"""Functions that have series of their own, of all workloads; others are counted as ``other``."""
MAX_LINES: Final = 30
BUCKETS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Seconds of an inference: from a token to a long answer."""

CARRY_S: Final = 60.0
"""How long a part of an observation that was cut speaks for the next one, which has seen little."""

Labels = tuple[str, ...]
Series = dict[tuple[str, Labels], float]
"""By metric and by labels other than the workload."""


class Gauges(NamedTuple):
    """What holds now, of one observation."""

    memory_bytes: int
    processes: int
    findings: dict[Labels, int]
    lines: dict[Labels, float]
    seconds: float
    """How long the observation, or its present part, has lasted."""

    def after(self, before: Gauges) -> Gauges:
        """With what the part ``before`` had found: a cut is no change in what is observed.

        It ends after a minute, or sooner if that part was shorter: then this one has seen as much.
        """
        if self.seconds >= min(before.seconds, CARRY_S):
            return self
        findings, lines = dict(before.findings), dict(before.lines)
        for labels, number in self.findings.items():
            findings[labels] = max(number, findings.get(labels, 0))
        for labels, saves_s in self.lines.items():
            lines[labels] = max(saves_s, lines.get(labels, 0.0))
        return self._replace(findings=findings, lines=_most(lines))


class Histogram:
    """Durations in seconds."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        self.counts[sum(value > bound for bound in BUCKETS)] += 1
        self.sum += value

    def merge(self, other: Histogram) -> None:
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum


def series_of(report: dict[str, Any]) -> Series:
    """The sums of one report that count."""
    found: Series = {}

    def add(name: str, labels: Labels, value: float | None) -> None:
        if value:
            found[name, labels] = found.get((name, labels), 0.0) + value

    for thread in [*report["threads"], report.get("threads_omitted", {})]:
        for state, seconds in thread.get("states", {}).items():
            add("state", (state,), seconds)
    for engine in report["engines"]:
        if is_gpu(engine):
            add("gpu_busy", (engine["id"],), engine["busy_s"])
            add("gpu_idle", (engine["id"],), engine["idle_s"])
        if not engine.get("finest", True):  # the GPU below a model: its idle second is the model's
            continue
        add("busy", (engine["kind"],), engine["busy_s"])
        add("idle", (engine["kind"],), engine["idle_s"])
    for cause in report["idle_by_cause"]:
        why = cause["cause"]  # not the state: a server that nobody calls waits in a lock
        add("cause", (why,), cause["seconds"])
        if cause["function"]:
            add("function", (why, str(cause["function"])[:100]), cause["seconds"])
    for finding in report["findings"]:
        add("finding_idle", (finding["kind"],), finding["engine_idle_s"])
    found["blind", ()] = report["loss"]["seconds_blind"]  # also 0: an increase needs something to begin with
    return found


def gauges_of(report: dict[str, Any]) -> Gauges:
    """What holds at the end of a report."""
    alive = [process for process in report["processes"] if process.get("end_s") is None]
    findings: dict[Labels, int] = {}
    lines: dict[Labels, float] = {}
    for finding in report["findings"]:
        labels = finding["kind"], finding["severity"]
        findings[labels] = findings.get(labels, 0) + 1
        if finding["function"] and finding["saves_s"]:
            name = str(finding["file"] or "?").rpartition("/")[2]
            where = finding["kind"], str(finding["function"])[:100], f"{name[:80]}:{finding['line'] or '?'}"
            lines[where] = lines.get(where, 0.0) + finding["saves_s"]
    memory = sum(process["rss_end_bytes"] or 0 for process in alive)
    return Gauges(memory, len(alive), findings, _most(lines), report["target"]["duration_s"])


class Ledger:
    """All sums; an observation is known by its number as long as it lasts."""

    def __init__(self, max_workloads: int, functions: bool) -> None:
        self.functions = functions
        self.blind_s = 0.0  # before this daemon, as the target that lived longest without one tells
        self._workloads = Workloads(max_workloads, self._forget, self._lives)
        self._ended: dict[str, Series] = {}
        self._shown: dict[str, Series] = {}
        self._live: dict[int, tuple[str, Series, Gauges]] = {}
        self._before: dict[int, Gauges] = {}
        self._histograms: dict[str, Histogram] = {}
        self._gpus = GpuSeconds()
        self._functions: set[str] = set()

    def update(self, number: int, workload: str, report: dict[str, Any], now_s: float) -> None:
        """What an observation has come to so far."""
        name = self._workloads.use(workload, now_s)
        known = self._live.get(number)
        if known is not None and known[0] != name:
            if known[0] == OTHER:
                name = OTHER  # what was counted there stays there
            else:
                self.end(number)
        self.blind_s = max(self.blind_s, report["loss"]["seconds_blind"])
        series = {self._bounded(key): value for key, value in series_of(report).items() if self._wanted(key)}
        self._count_gpus(number, name, series, now_s)
        gauges = gauges_of(report)
        if number in self._before:
            gauges = gauges.after(self._before[number])
        self._live[number] = name, series, gauges

    def cut(self, number: int) -> None:
        """An observation goes on, its report begins anew: what was found holds until the new one can tell."""
        known = self._live.get(number)
        self.end(number)
        if known is not None:
            self._before[number] = known[2]

    def end(self, number: int) -> None:
        """An observation has ended: its last sums stay."""
        self._before.pop(number, None)
        self._gpus.end(number)
        known = self._live.pop(number, None)
        if known is not None:
            name, series, _ = known
            _add(self._ended.setdefault(name, {}), series)

    def inference(self, workload: str, seconds: float, now_s: float) -> None:
        """An inference has ended."""
        name = self._workloads.use(workload, now_s)
        self._histograms.setdefault(name, Histogram()).add(seconds)

    def counters(self) -> dict[str, Series]:
        """By workload; never less than the last time."""
        total: dict[str, Series] = {name: dict(series) for name, series in self._ended.items()}
        for name, series, _ in self._live.values():
            _add(total.setdefault(name, {}), series)
        for name, series in total.items():
            shown = self._shown.setdefault(name, {})
            for key, value in series.items():
                shown[key] = max(value, shown.get(key, 0.0))
        return self._shown

    def gauges(self) -> dict[str, list[Gauges]]:
        """Of each live observation, by workload."""
        found: dict[str, list[Gauges]] = {}
        for name, _, gauges in self._live.values():
            found.setdefault(name, []).append(gauges)
        return found

    def histograms(self) -> dict[str, Histogram]:
        return self._histograms

    def _count_gpus(self, number: int, name: str, series: Series, now_s: float) -> None:
        """Take the GPUs out of an observation's sums: everybody has them who is on them."""
        for gpu in {labels for key, labels in series if key in ("gpu_busy", "gpu_idle")}:
            so_far = series.pop(("gpu_busy", gpu), 0.0), series.pop(("gpu_idle", gpu), 0.0)
            busy, idle = self._gpus.new(number, name, gpu[0], so_far, now_s)
            _add(self._ended.setdefault(name, {}), {("gpu_busy", gpu): busy, ("gpu_idle", gpu): idle})

    def _wanted(self, key: tuple[str, Labels]) -> bool:
        return key[0] != "function" or self.functions

    def _bounded(self, key: tuple[str, Labels]) -> tuple[str, Labels]:
        if key[0] != "function":
            return key
        state, function = key[1]
        if function not in self._functions:
            if len(self._functions) >= MAX_FUNCTIONS:
                return key[0], (state, OTHER)
            self._functions.add(function)
        return key

    def _lives(self, workload: str) -> bool:
        """Its sums are still to come, and to be counted under its name."""
        return any(known[0] == workload for known in self._live.values())

    def _forget(self, workload: str) -> None:
        """Its place is another's now: what it had is counted as ``other``."""
        _add(self._ended.setdefault(OTHER, {}), self._ended.pop(workload, {}))
        self._shown.pop(workload, None)
        self._gpus.forget(workload)
        histogram = self._histograms.pop(workload, None)
        if histogram is not None:
            self._histograms.setdefault(OTHER, Histogram()).merge(histogram)


def _most(lines: dict[Labels, float]) -> dict[Labels, float]:
    best = sorted(lines, key=lambda where: -lines[where])[:MAX_LINES]
    return {where: lines[where] for where in best}


def _add(to: Series, series: Series) -> None:
    for key, value in series.items():
        to[key] = to.get(key, 0.0) + value
