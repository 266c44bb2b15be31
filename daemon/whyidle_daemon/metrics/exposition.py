"""The metrics in Prometheus's words. Names and labels are a contract: dashboards and alerts use them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from typing import Final, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.utils import floatToGoString

from whyidle_daemon.metrics.ledger import BUCKETS, Ledger

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

# Key in the ledger, name, labels besides the workload, help.
_COUNTERS: Final = (
    ("state", "whyidle_state_seconds", ("state",), "Seconds that threads spent in each state."),
    ("busy", "whyidle_engine_busy_seconds", ("engine",), "Seconds in which a model engine computed."),
    ("idle", "whyidle_engine_idle_seconds", ("engine",), "Seconds in which a model engine sat idle."),
    ("gpu_busy", "whyidle_gpu_busy_seconds", ("gpu",), "Seconds in which a GPU computed or copied."),
    ("gpu_idle", "whyidle_gpu_idle_seconds", ("gpu",), "Seconds in which a GPU in use sat idle."),
    (
        "cause",
        "whyidle_idle_seconds",
        ("state",),
        "Idle seconds of engines, by what the driver thread did; no_demand: it waited to be called.",
    ),
    (
        "function",
        "whyidle_idle_function_seconds",
        ("state", "function"),
        "Idle seconds of engines, by the function that waited (only with metrics.functions).",
    ),
    ("finding_idle", "whyidle_finding_idle_seconds", ("kind",), "Idle seconds that findings explain."),
    ("blind", "whyidle_blind_seconds", (), "Seconds that targets lived without a daemon, of all together."),
)  # fmt: skip


class Own(NamedTuple):
    """What the daemon says of itself; seconds and bytes. ``bpf_s``: ``None`` when the kernel counts none."""

    version: str
    cpu_s: float
    rss_bytes: int
    bpf_s: float | None
    lost: dict[str, int]
    clients: int
    refresh_s: float


class _Collector(Collector):
    def __init__(self, ledger: Ledger, own: Callable[[], Own]) -> None:
        self._ledger, self._own = ledger, own

    def collect(self) -> Iterable[Metric]:
        yield from self._counters()
        yield from self._gauges()
        yield self._histogram()
        yield from self._of_daemon()

    def _counters(self) -> Iterable[Metric]:
        series = self._ledger.counters()
        for key, name, labels, text in _COUNTERS:
            family = CounterMetricFamily(name, text, labels=("workload", *labels))
            for workload, values in series.items():
                for (of, more), value in values.items():
                    if of == key:
                        family.add_metric((workload, *more), value)
            yield family

    def _gauges(self) -> Iterable[Metric]:
        targets = GaugeMetricFamily(
            "whyidle_targets", "Process trees that are observed.", labels=("workload",)
        )
        processes = GaugeMetricFamily("whyidle_processes", "Their live processes.", labels=("workload",))
        memory = GaugeMetricFamily("whyidle_memory_bytes", "Their resident memory.", labels=("workload",))
        findings = GaugeMetricFamily(
            "whyidle_findings", "Bottlenecks that hold now.", labels=("workload", "kind", "severity")
        )
        lines = GaugeMetricFamily(
            "whyidle_finding_saves_seconds",
            "What a fix would have saved in this part of the history or, while that is short, the one "
            "before (only with metrics.functions).",
            labels=("workload", "kind", "function", "line"),
        )
        for workload, items in self._ledger.gauges().items():
            targets.add_metric((workload,), len(items))
            processes.add_metric((workload,), sum(item.processes for item in items))
            memory.add_metric((workload,), sum(item.memory_bytes for item in items))
            for labels, number in _summed(item.findings for item in items).items():
                findings.add_metric((workload, *labels), number)
            if self._ledger.functions:
                for labels, saves in _summed(item.lines for item in items).items():
                    lines.add_metric((workload, *labels), saves)
        return targets, processes, memory, findings, lines

    def _histogram(self) -> Metric:
        family = HistogramMetricFamily(
            "whyidle_inference_seconds", "How long an inference took.", labels=("workload",)
        )
        bounds = [*map(floatToGoString, BUCKETS), "+Inf"]
        for workload, histogram in self._ledger.histograms().items():
            buckets = list(zip(bounds, map(float, accumulate(histogram.counts)), strict=True))
            family.add_metric((workload,), buckets, histogram.sum)
        return family

    def _of_daemon(self) -> Iterable[Metric]:
        own = self._own()
        info = GaugeMetricFamily(
            "whyidle_build_info", "Always 1; the version is a label.", labels=("version",)
        )
        info.add_metric((own.version,), 1)
        yield info
        yield CounterMetricFamily("whyidle_daemon_cpu_seconds", "CPU time of the daemon.", own.cpu_s)
        yield CounterMetricFamily(
            "whyidle_daemon_blind_seconds",
            "Seconds before this daemon without one, in which something lived that it observes.",
            self._ledger.blind_s,
        )
        yield GaugeMetricFamily(
            "whyidle_daemon_memory_bytes", "Resident memory of the daemon.", own.rss_bytes
        )
        yield GaugeMetricFamily("whyidle_daemon_clients", "Connected clients.", own.clients)
        yield GaugeMetricFamily(
            "whyidle_metrics_refresh_seconds", "What the sums of this scrape took.", own.refresh_s
        )
        if own.bpf_s is not None:
            yield CounterMetricFamily(
                "whyidle_bpf_seconds",
                "CPU time of the kernel programs (kernel.bpf_stats_enabled).",
                own.bpf_s,
            )
        lost = CounterMetricFamily("whyidle_lost", "Events that found no room.", labels=("what",))
        for what, count in own.lost.items():
            lost.add_metric((what,), count)
        yield lost


def _summed(items: Iterable[Mapping[tuple[str, ...], float]]) -> dict[tuple[str, ...], float]:
    total: dict[tuple[str, ...], float] = {}
    for item in items:
        for labels, value in item.items():
            total[labels] = total.get(labels, 0) + value
    return total


def page(ledger: Ledger, own: Callable[[], Own]) -> bytes:
    """Everything, in the text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(ledger, own))
    return generate_latest(registry)
