"""What Prometheus, and by it an autoscaler, is told of a queue and of the workers of this process."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from whyidle_agent.errors import AgentError
from whyidle_agent.queue import Queue

_SECONDS = (1, 2, 5, 10, 20, 60, 120, 300, 600, 1800, 3600)


class _QueueLength(Collector):
    """Counted when somebody asks. A folder that cannot be read has no length, which is not a length of 0."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def collect(self) -> Iterator[GaugeMetricFamily]:
        length = GaugeMetricFamily(
            "whyidle_agent_queue_tasks",
            "Tasks by state; every worker of a queue says the same.",
            labels=["state"],
        )
        oldest = GaugeMetricFamily(
            "whyidle_agent_queue_oldest_seconds", "For how long the first waiting task has waited."
        )
        try:
            counts, waited = self._queue.counts(), self._queue.oldest_s()
        except OSError:
            return
        for state, count in counts.items():
            length.add_metric([state], count)
        oldest.add_metric([], waited)
        yield length
        yield oldest

    def describe(self) -> list[GaugeMetricFamily]:
        return []  # by its collection, the registry would otherwise read the folder at start


class Metrics:
    """The numbers of one process."""

    def __init__(self, queue: Queue) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_QueueLength(queue))
        self._tasks = Counter(
            "whyidle_agent_tasks", "Runs by how they ended.", ["outcome"], registry=self.registry
        )
        for outcome in ("done", "failed", "retried"):
            self._tasks.labels(outcome)  # a rate needs the 0 before the 1
        self._seconds = Histogram(
            "whyidle_agent_task_seconds", "Wall time of a run.", buckets=_SECONDS, registry=self.registry
        )

    def ended(self, outcome: str, seconds: float) -> None:
        """Count one run."""
        self._tasks.labels(outcome).inc()
        self._seconds.observe(seconds)

    def listen(self, host: str, port: int) -> int:
        """Serve them in a thread; returns the port (for 0: which one it is). Raises AgentError."""
        try:
            server, _ = start_http_server(port, host, self.registry)
        except OSError as error:
            raise AgentError(
                f"cannot listen on {host}:{port}: {error.strerror}", "give another --metrics HOST:PORT"
            ) from error
        return int(server.server_port)
