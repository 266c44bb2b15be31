"""Simulated GPUs for tests in this process."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from simulators import nvml as simulator


@pytest.fixture
def simulated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., simulator.SimulatedGpus]]:
    """Makes GPUs that pynvml finds: the loader takes a library of that name that is loaded already."""
    ctypes.CDLL(str(simulator.build()))
    made: list[simulator.SimulatedGpus] = []

    def make(gpus: int = 1, period_s: float = 0.1) -> simulator.SimulatedGpus:
        path = tmp_path / f"gpus{len(made)}"
        made.append(simulator.SimulatedGpus(path, gpus, period_s))
        monkeypatch.setenv(simulator.VARIABLE, str(path))
        return made[-1]

    yield make
    for one in made:
        one.__exit__(None, None, None)
