"""A real Prometheus scrapes two workers of one queue: the autoscaler's query gives its true length."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from test_prometheus import DEPLOY, Prometheus

from harness import wait_until
from whyidle_agent.queue import Queue, QueuedTask
from whyidle_agent.queue_metrics import Metrics

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="prometheus is not installed (make test does it)"
)
SERVER = """
global: {{scrape_interval: 250ms}}
scrape_configs:
  - job_name: agents
    static_configs: [{{targets: TARGETS, labels: {{namespace: whyidle}}}}]
"""


def test_the_length_is_that_of_the_queue_and_not_once_per_worker(tmp_path: Path) -> None:
    """Three tasks wait and one runs: four, however many say so; another namespace's queue does not count."""
    queue, other = Queue(tmp_path / "queue"), Queue(tmp_path / "other")
    for _ in range(4):
        queue.submit(QueuedTask("goal"))
        other.submit(QueuedTask("goal"))
    claim = queue.claim()
    assert claim is not None
    done = queue.claim()
    assert done is not None
    done.finish("done", {})
    queue.submit(QueuedTask("goal"))
    ports = [Metrics(one).listen("127.0.0.1", 0) for one in (queue, queue)]
    (rule,) = yaml.safe_load((DEPLOY / "kubernetes" / "prometheus-adapter.yaml").read_text())["rules"][
        "external"
    ]
    series = rule["seriesQuery"].partition("{")[0]
    ask = rule["metricsQuery"].replace("<<.Series>>", series)
    server = Prometheus(
        tmp_path, ports[0], SERVER.replace("TARGETS", str([f"127.0.0.1:{port}" for port in ports]))
    )
    try:
        wait_until(server.ready, "Prometheus", 60)
        wait_until(lambda: len(server.query(rule["seriesQuery"])) == 2 * 4, "both workers, four states", 60)
        (length,) = server.query(ask.replace("<<.LabelMatchers>>", 'namespace="whyidle"'))
        assert length["value"][1] == "4"
        assert not server.query(ask.replace("<<.LabelMatchers>>", 'namespace="elsewhere"'))
    finally:
        server.close()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (package prometheus)")
def test_metrics_are_well_formed(tmp_path: Path) -> None:
    """``promtool`` finds nothing to say about what a worker serves."""
    from urllib.request import urlopen  # noqa: PLC0415

    metrics = Metrics(Queue(tmp_path / "queue"))
    metrics.ended("done", 2.0)
    with urlopen(f"http://127.0.0.1:{metrics.listen('127.0.0.1', 0)}/metrics") as answer:
        done = subprocess.run(
            ["promtool", "check", "metrics"], input=answer.read(), capture_output=True, check=False
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
