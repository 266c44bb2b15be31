"""The soak of ``make soak``, for a minute: nothing piles up."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest
from benchmarks.soak.__main__ import LOG, soak
from benchmarks.soak.sampling import Sample
from benchmarks.soak.verdict import MET, judge

pytestmark = pytest.mark.bpf


def verdicts(samples: list[Sample], log: Path) -> dict[str, str]:
    errors = log.read_text(errors="replace").count("ERROR")
    return {judgement.what: judgement.verdict for judgement in judge(samples, os.cpu_count() or 1, errors)}


@pytest.mark.timeout(300)
def test_a_minute_of_everything(tmp_path: Path) -> None:
    """Descriptors, maps, programs, threads and queues do not grow; a minute is too short for the memory."""
    samples, done = soak(60, tmp_path / "soak.csv")
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
