"""CUDA, observed: a real libcuda ABI with simulated streams behind it, truth by its own clock."""

from __future__ import annotations

from pathlib import Path

import pytest
import report_schema

from harness_cli import SearchServer, load, whyidle
from simulators.cuda import JOB, build_libcuda, truth

pytestmark = pytest.mark.bpf
NS = 1_000_000_000
EDGE_S = 0.005

AGENT = (
    JOB
    + """
import urllib.request
def search_web(url):
    return urllib.request.urlopen(url).read()
for _ in range(5):
    for _ in range(20):
        launch(2)
    sync()
    search_web(sys.argv[2])
launch(5); sync()
"""
)


@pytest.fixture(scope="session")
def libcuda(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_libcuda(tmp_path_factory.mktemp("libcuda"))


def gaps_of(busy: list[tuple[int, int]], least_ns: int) -> list[tuple[int, int]]:
    between = ((a[1], b[0]) for a, b in zip(busy, busy[1:], strict=False))
    return [(start, end) for start, end in between if end - start >= least_ns]


@pytest.mark.parametrize("how", ["block", "spin"])
def test_main_job(how: str, libcuda: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that waits for the network between kernels: gaps to 5 ms, the guilty line, live as replayed."""
    (tmp_path / "agent.py").write_text(AGENT)
    monkeypatch.setenv("WHYIDLE_SIM_TRUTH", str(tmp_path / "truth"))
    monkeypatch.setenv("WHYIDLE_SIM_SYNC", how)
    with SearchServer(tmp_path, 0.15) as server:
        done = whyidle(
            *("run", "--json", tmp_path / "report.json", "--record", tmp_path / "job.rec", "--"),
            *("python3", tmp_path / "agent.py", libcuda, server.url + "/search?q=x"),
        )
    assert done.returncode == 0, done.stderr
    report = load(tmp_path / "report.json")
    report_schema.check(report)
    (engine,) = report["engines"]
    assert (engine["kind"], engine["simulated"]) == ("cuda", True)
    assert engine["id"] == f"cuda:{engine['pid']}"
    busy = truth(tmp_path / "truth")
    assert engine["busy_s"] == pytest.approx(sum(end - start for start, end in busy) / NS, abs=EDGE_S * 6)
    expected = gaps_of(busy, 50_000_000)
    assert len(expected) == 5
    found = sorted((gap for gap in report["gaps"] if not gap["open"]), key=lambda gap: gap["start_s"])
    found = [gap for gap in found if gap["duration_s"] > 0.05]
    origin = expected[0][0] / NS - found[0]["start_s"]  # the report counts from its own start
    for gap, (start, end) in zip(found, expected, strict=True):
        assert gap["start_s"] + origin == pytest.approx(start / NS, abs=EDGE_S)
        assert gap["start_s"] + gap["duration_s"] + origin == pytest.approx(end / NS, abs=EDGE_S)
        worst = max(gap["causes"], key=lambda cause: cause["share"])
        assert (worst["state"], worst["function"]) == ("network", "search_web")
    assert engine["idle_attributed_s"] >= 0.95 * engine["idle_s"]
    first = report["findings"][0]
    assert (first["kind"], first["function"]) == ("blocking_network_call", "search_web")
    assert first["engine_idle_s"] == pytest.approx(0.75, rel=0.1)
    (main,) = [thread for thread in report["threads"] if thread["tid"] == report["target"]["pid"]]
    assert main["states"]["gpu_wait"] == pytest.approx(engine["busy_s"], rel=0.2)
    assert main["states"]["running"] < engine["busy_s"]
    replayed = whyidle("report", tmp_path / "job.rec", "--json")
    assert replayed.returncode == 0, replayed.stderr
