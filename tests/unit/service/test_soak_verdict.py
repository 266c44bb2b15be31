"""What a soak concludes from its samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from benchmarks.soak.picture import draw
from benchmarks.soak.sampling import Sample
from benchmarks.soak.verdict import FAILED, MET, TOO_SHORT, judge, passed

MB = 1_000_000


def samples(minutes: float, per_hour: float, noise: int = 0, **more: int) -> list[Sample]:
    """A warm-up, then 40 MB that grow by a share of it per hour, with agents that come and go on top."""
    random = Random(1)
    found = []
    for second in range(int(minutes * 60)):
        warm = min(1.0, second / (minutes * 6))
        rss = 40 * MB * (0.7 + 0.3 * warm) * (1 + per_hour * second / 3600) + random.randrange(noise + 1)
        sample = Sample(
            second, int(rss), int(rss / 2), second * 0.01, 9, 80 + second % 7, 13, 23, 20, 5, 1, 0, 0, 0
        )
        found.append(replace(sample, **{name: value * second // 60 for name, value in more.items()}))
    return found


def verdict(of: list[Sample], what: str, mistakes: int = 0) -> str:
    return next(j.verdict for j in judge(of, 2, mistakes) if j.what.startswith(what))


@pytest.mark.parametrize(
    ("minutes", "per_hour", "expected"),
    [(60, 0.0, MET), (60, -0.02, MET), (60, 0.005, MET), (60, 0.02, FAILED), (60, 0.5, FAILED),
     (0.3, 0.0, TOO_SHORT)],
)  # fmt: skip
def test_drift_of_memory(minutes: float, per_hour: float, expected: str) -> None:
    """One percent an hour is what is allowed, under noise of a megabyte; too few samples decide nothing."""
    found = samples(minutes, per_hour, noise=MB)
    assert verdict(found, "memory") == expected
    assert passed(judge(found, 2, 0)) == (expected == MET)


@pytest.mark.parametrize(
    "name", ["descriptors", "bpf_maps", "bpf_programs", "map_entries", "threads", "queued_bytes"]
)
def test_growth_of_anything(name: str) -> None:
    """One a minute is growth; coming and going is none."""
    assert passed(judge(samples(60, 0.0), 2, 0))
    assert not passed(judge(samples(60, 0.0, **{name: 1}), 2, 0))


# Of a minute in which the network stack's note-taker was attached, and agents came and went.
STEPS = [
    83, 87, 90, 89, 89, 90, 89, 90, 88, 87, 90, 90, 90, 90, 90, 90, 88, 89, 90, 90,
    90, 89, 88, 87, 90, 90, 89, 90, 89, 89, 88, 91, 91, 93, 91, 92, 91, 89, 89, 92,
    91, 92, 92, 92, 90, 90, 92, 92, 92, 92, 92, 90, 90, 92, 93, 92, 93, 93, 91, 92,
]  # fmt: skip


def test_steps_are_no_growth() -> None:
    """Descriptors as they were measured: what is attached when it is first needed does not pile up."""
    found = [replace(sample, descriptors=count) for sample, count in zip(samples(1, 0.0), STEPS, strict=True)]
    assert verdict(found, "descriptors") == MET
    leak = [replace(sample, descriptors=sample.descriptors + number) for number, sample in enumerate(found)]
    assert verdict(leak, "descriptors") == FAILED


def test_an_error_in_the_log_fails_it() -> None:
    """A daemon that caught its own mistake did not pass."""
    assert verdict(samples(60, 0.0), "errors", 1) == FAILED


def test_the_picture(tmp_path: Path) -> None:
    """It is a PNG of a readable size."""
    draw(samples(2, 0.0), tmp_path / "s.png", "title")
    data = (tmp_path / "s.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert int.from_bytes(data[16:20], "big") == 1000
