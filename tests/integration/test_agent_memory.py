"""The agent's memory and context under a real whyidle, and on a disk that is really full."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from whyidle_agent.experiments import context, memory
from whyidle_agent.memory.store import VectorStore
from whyidle_agent.model_file import SMALL_SIZE, generated_model
from whyidle_agent.slow_search import Behaviour, SearchServer

pytestmark = [pytest.mark.bpf, pytest.mark.timeout(900)]
AGENT = Path(sys.executable).parent / "whyidle-agent"


def test_growth_is_found_where_it_is(tmp_path: Path) -> None:
    """The unbounded run yields memory_growth with the rate that the agent itself sees; the managed none."""
    result = memory.memory(tmp_path, 500, 1)
    unbounded, managed = result["unbounded"], result["managed"]
    assert "memory_growth" in unbounded["whyidle"]["findings"]
    told, own = unbounded["whyidle"]["growth_bytes_per_s"], unbounded["agent"]
    print(f"{told / own['resident_bytes_per_s'] - 1:+.1%} of what is resident")
    assert told == pytest.approx(own["resident_bytes_per_s"], rel=0.05)
    assert own["held_bytes_per_s"] <= own["resident_bytes_per_s"]
    assert "memory_growth" not in managed["whyidle"]["findings"]
    assert managed["whyidle"]["peak_bytes"] < unbounded["whyidle"]["peak_bytes"]
    assert json.loads((tmp_path / "memory.json").read_text()) == result


def test_the_first_half_of_a_context_foretells_its_end(tmp_path: Path) -> None:
    """Both findings are there before the limit, and it is where they said, within a tenth."""
    result = context.context(tmp_path, context.LOOPS, 1)
    forecast = result["forecast"]
    print(forecast)
    assert forecast["after_inferences"] <= forecast["failed_at_inference"] / 2
    assert forecast["findings"] == ["kv_cache_growth", "memory_limit_near"]
    assert abs(forecast["error"]) <= 0.10
    for step in result["steps"]:
        # An answer's last token is not decoded any more.
        assert step["tokens"] == pytest.approx(step["own_tokens"], abs=2)
        assert step["latency_s"] <= step["own_latency_s"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", disk]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def run(workdir: Path, policy: str, loops: int) -> subprocess.CompletedProcess[str]:
    with SearchServer("127.0.0.1", 0, Behaviour(0.0)) as server:
        command = [AGENT, "run", "--small", "--memory", policy, "--loops", loops, "--workdir", workdir]
        command += ["--search-url", server.url, "--tokens", 100, "--queries", 1]
        return subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, check=False, timeout=300
        )


def remembered(workdir: Path) -> list[tuple[int, str, str]]:
    model = generated_model(size=SMALL_SIZE)
    store = VectorStore(workdir / "memory" / "memory.db", SMALL_SIZE.width, model.name)
    try:
        return [(one.step, one.kind, one.text) for one, _ in store.everything()]
    finally:
        store.close()


def expected(workdir: Path) -> list[tuple[int, str]]:
    """Steps and results of the history, each twice as the unbounded memory has them."""
    whole = (workdir / "history.jsonl").read_text().rpartition("\n")[0]  # the last line may be torn
    records: list[dict[str, Any]] = [json.loads(line) for line in whole.splitlines()]
    steps = [record for record in records if "step" in record]
    return [(step["step"], step["observation"]) for step in steps if step["observation"] for _ in range(2)]


def test_a_full_disk_under_the_store_is_one_line_and_loses_nothing(small_disk: Path, tmp_path: Path) -> None:
    """The run goes on; the next one, with room, remembers all that happened in between, once and in order."""
    workdir = tmp_path / "work"
    workdir.mkdir()
    (workdir / "memory").symlink_to(small_disk)
    done = run(workdir, "unbounded", 80)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("no space left") == 1
    assert "Traceback" not in done.stdout + done.stderr
    subprocess.run(["mount", "-o", "remount,size=40m", small_disk], check=True)
    assert run(workdir, "unbounded", 1).returncode == 0
    found = [(step, text) for step, kind, text in remembered(workdir) if kind == "result"]
    assert found == expected(workdir)
    assert len(found) > 150


def test_a_full_disk_under_everything_stops_the_run_and_loses_no_step(small_disk: Path) -> None:
    """The history has no room either: one line, status 1, and what was done is remembered the next time."""
    done = run(small_disk, "unbounded", 2000)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 2
    assert "No space left" in done.stderr
    steps = expected(small_disk)
    subprocess.run(["mount", "-o", "remount,size=80m", small_disk], check=True)
    again = run(small_disk, "unbounded", 1)
    assert again.returncode == 0, again.stderr
    found = [(step, text) for step, kind, text in remembered(small_disk) if kind == "result"]
    assert found[: len(steps)] == steps
    assert len(steps) > 20
