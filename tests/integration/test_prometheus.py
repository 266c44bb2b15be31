"""A real Prometheus scrapes a real daemon that observes a real agent: the dashboard's queries, the alerts."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_metrics_endpoint import port_of

from harness import wait_until
from harness_cli import BIN, Daemon, SearchServer
from simulators import llama_gpu
from simulators.nvml import SimulatedGpus

pytestmark = [
    pytest.mark.bpf,
    pytest.mark.model,
    pytest.mark.skipif(
        shutil.which("prometheus") is None, reason="prometheus is not installed (make test does it)"
    ),
]
pytest.importorskip("llama_cpp", reason="the reference agent needs llama-cpp-python", exc_type=ImportError)

DEPLOY = Path(__file__).parents[2] / "deploy"
CONFIG = """
[metrics]
listen = "127.0.0.1:0"
functions = true
[history]
part_minutes = 0.1
[discovery]
defaults = false
[[discovery.rule]]
name = "agent"
command = ["*whyidle-agent run*--workdir {work}*"]
"""
SERVER = """
global: {{scrape_interval: 500ms, evaluation_interval: 1s}}
rule_files: [{rules}]
scrape_configs:
  - job_name: whyidle
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


class Prometheus:
    """A server with its own data directory and port."""

    def __init__(self, folder: Path, port: int, settings: str = SERVER) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            own = free.getsockname()[1]
        config = folder / "prometheus.yml"
        config.write_text(settings.format(port=port, rules=DEPLOY / "prometheus" / "alerts.yml"))
        self.url = f"http://127.0.0.1:{own}/api/v1/"
        self.log = folder / "prometheus.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}",
                 f"--web.listen-address=127.0.0.1:{own}"],
                stderr=log, stdout=log,
            )  # fmt: skip

    def ask(self, what: str, **parameters: str) -> Any:
        url = f"{self.url}{what}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                return json.loads(answer.read())["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None

    def query(self, text: str) -> list[Any]:
        found: list[Any] = self.ask("query", query=text)["result"]
        return found

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(self.url.replace("/api/v1/", "/-/ready"), timeout=20) as answer:
                return bool(answer.status == 200)
        except OSError:
            assert self.process.poll() is None, self.log.read_text()
            return False

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=30)


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """One that has scraped while an agent ran on a (simulated) GPU, and still does."""
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "state").mkdir()
    work = folder / "work"
    on_gpu = llama_gpu.environment(SimulatedGpus(folder / "gpus"))
    with (
        SearchServer(folder, 0.75) as search,
        Daemon(
            folder,
            config=CONFIG.format(work=work),
            arguments=["--state", folder / "state"],
            prefix=["env", *(f"{name}={value}" for name, value in on_gpu.items())],
        ) as daemon,
    ):
        server = Prometheus(folder, port_of(daemon))
        try:
            wait_until(server.ready, "Prometheus", 60)
            agent = subprocess.Popen(
                [
                    BIN / "whyidle-agent",
                    "run",
                    "--search-url",
                    search.url,
                    "--loops",
                    "1000",
                    "--workdir",
                    work,
                ],
                env=os.environ | on_gpu,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                for wanted in (
                    'increase(whyidle_idle_function_seconds_total{function="search_web"}[1m]) > 1',
                    "increase(whyidle_inference_seconds_count[1m]) > 2",
                    "increase(whyidle_gpu_idle_seconds_total[1m]) > 1",
                    'whyidle_finding_saves_seconds{function="search_web"} > 0',
                ):
                    wait_until(lambda wanted=wanted: server.query(wanted), wanted, 90, every_s=0.5)
                yield server
            finally:
                agent.kill()
                agent.wait()
        finally:
            server.close()


def queries() -> dict[str, str]:
    """Every query of the dashboard, by panel, as Grafana would send it."""
    board = json.loads((DEPLOY / "grafana" / "whyidle.json").read_text())
    found = {}
    for panel in board["panels"]:
        for target in panel["targets"]:
            text = target["expr"].replace("$workload", ".*").replace("$__rate_interval", "1m")
            assert "$" not in text
            found[f"{panel['title']} {target['refId']}"] = text
    return found


@pytest.mark.parametrize("panel", queries())
def test_every_panel_shows_something(prometheus: Prometheus, panel: str) -> None:
    """The query is understood, and answers with numbers from a host where an agent waits for a search."""
    result = prometheus.query(queries()[panel])
    assert result, queries()[panel]
    assert all(re.fullmatch(r"-?[0-9.e+-]+|NaN", series["value"][1]) for series in result)
    assert any(series["value"][1] != "NaN" for series in result)


def test_the_question_of_the_article(prometheus: Prometheus) -> None:
    """Why is the model idle, and which line is to blame: the dashboard's first row has the answer."""
    ask = queries()
    (idle,) = prometheus.query(ask["The model is idle A"])
    assert 0.4 < float(idle["value"][1]) <= 1
    states = prometheus.query(ask["Because its driver thread was A"])
    assert max(states, key=lambda s: float(s["value"][1]))["metric"]["state"] == "network"
    lines = prometheus.query(ask["Which line is to blame A"])
    worst = max(lines, key=lambda s: float(s["value"][1]))["metric"]
    assert (worst["function"], worst["workload"]) == ("search_web", "agent")
    assert re.fullmatch(r"tools\.py:\d+", worst["line"])


def test_sums_hold_in_prometheus_too(prometheus: Prometheus) -> None:
    """The causes of the idle time add up to it, also over a cut between two parts of the history."""
    # One query: between two, a scrape may come.
    (parts,) = prometheus.query("sum(whyidle_idle_seconds_total) / sum(whyidle_engine_idle_seconds_total)")
    assert float(parts["value"][1]) == pytest.approx(1, rel=0.01)
    counted = prometheus.query("sum(whyidle_inference_seconds_count)")
    assert float(counted[0]["value"][1]) >= 2


def test_the_alerts_are_loaded(prometheus: Prometheus) -> None:
    """The server evaluates every rule without an error."""
    (group,) = prometheus.ask("rules")["groups"]
    wait_until(
        lambda: all(rule["health"] == "ok" for rule in prometheus.ask("rules")["groups"][0]["rules"]),
        "a round",
    )
    assert len(group["rules"]) == 5


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (package prometheus)")
@pytest.mark.parametrize(
    "arguments", [("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")]
)
def test_the_alerts_fire_on_what_they_are_for(arguments: tuple[str, ...]) -> None:
    """``promtool`` checks the rules, and runs them over made-up hosts."""
    done = subprocess.run(
        ["promtool", *arguments], cwd=DEPLOY / "prometheus", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
