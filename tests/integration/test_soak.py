"""The soak of ``make soak``, for a minute: nothing piles up; and it sees what does."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest
from benchmarks.soak.__main__ import LOG, soak, verdict_text
from benchmarks.soak.load import Load
from benchmarks.soak.sampling import Sample
from benchmarks.soak.verdict import FAILED, MET, judge

pytestmark = pytest.mark.bpf

# Loaded by every Python that is started with it in its path; only the daemon leaks.
LEAK = """
import os, sys, threading, time
def leak(kept=[]):
    while True:
        kept.append((os.dup(2), bytearray(os.urandom(1)) * 100_000))
        time.sleep(0.2)
if any(word.endswith("/whyidled") for word in sys.orig_argv):
    threading.Thread(target=leak, daemon=True).start()
"""


def verdicts(samples: list[Sample], log: Path) -> dict[str, str]:
    errors = log.read_text(errors="replace").count("ERROR")
    return {judgement.what: judgement.verdict for judgement in judge(samples, os.cpu_count() or 1, errors)}


@pytest.mark.timeout(300)
def test_a_minute_of_everything(tmp_path: Path) -> None:
    """Descriptors, maps, programs, threads and queues do not grow; a minute is too short for the memory."""
    samples, done, ended = soak(60, tmp_path / "soak.csv")
    assert not ended
    with (tmp_path / "soak.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(samples) > 20
    assert {name for name, count in done.items() if count} >= {
        "visitor",
        "burst",
        "short_lived",
        "one_client",
    }
    found = verdicts(samples, tmp_path / LOG)
    del found["memory (RSS), per hour"]
    assert set(found.values()) <= {MET, ""}, (found, (tmp_path / LOG).read_text())
    assert samples[-1].lost == 0


@pytest.mark.timeout(300)
def test_a_leak_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that loses five descriptors and half a megabyte a second does not pass."""
    (tmp_path / "sitecustomize.py").write_text(LEAK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    samples, _, _ = soak(20, tmp_path / "soak.csv")
    found = verdicts(samples, tmp_path / LOG)
    assert found["memory (RSS), per hour"] == FAILED
    assert found["descriptors"] == FAILED
    assert found["BPF maps"] == MET


@pytest.mark.timeout(120)
def test_what_was_measured_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A soak that breaks says why, and judges the time that there was."""
    monkeypatch.setattr(Load, "_visitor", lambda load: 1 / 0 if load.done.get("one_client", 0) > 4 else None)
    run = soak(60, tmp_path / "soak.csv")
    assert run.ended == "the load broke: division by zero"
    assert 0 < run.samples[-1].seconds < 59
    text = verdict_text(judge(run.samples, 2, 0), 1, run)
    assert text.splitlines()[0].endswith(f"ended after {run.samples[-1].seconds / 60:.1f}: {run.ended}")
