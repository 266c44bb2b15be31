"""The gate to NVML: real pynvml against the simulated library, and what each fault means."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from harness import wait_until
from simulators import nvml as simulator
from simulators.nvml import GIB, SimulatedGpus
from whyidle_daemon.facts import EngineSpan, GpuFacts, GpuSample
from whyidle_daemon.gpus import nvml
from whyidle_daemon.gpus.nvidia import Nvidia
from whyidle_daemon.gpus.nvml import DriverGoneError, GpuLostError, Nvml
from whyidle_daemon.gpus.sampler import GpuProcesses, GpuSampler

Make = Callable[..., SimulatedGpus]
MS = 1_000_000


def spans_until(driver: Nvml, end_ns: int) -> list[EngineSpan]:
    """What the first GPU did, read until the samples have passed an instant."""
    found: list[EngineSpan] = []

    def passed() -> bool:
        found.extend(driver.spans(driver.devices[0]))
        return bool(found) and found[-1].end_ns >= end_ns

    wait_until(passed, "samples")
    return found


def work(spans: list[EngineSpan], start_ns: int, end_ns: int) -> float:
    """Milliseconds of work that spans say there were in whole periods around an interval."""
    return sum(s.busy_ns + s.copy_ns for s in spans if s.end_ns > start_ns and s.start_ns < end_ns) / MS


def test_what_there_is(simulated: Make) -> None:
    """Name, driver, memory; and that it is no hardware."""
    simulated(2)
    driver = Nvml()
    try:
        first, second = (device.facts for device in driver.devices)
    finally:
        driver.close()
    assert (first.gpu, second.gpu, first.number) == ("nvml:0", "nvml:1", 0)
    assert (first.name, first.driver, first.memory_total_bytes) == (
        "Simulated GPU",
        "0.0-simulated",
        80 * GIB,
    )
    assert first.simulated
    assert first.unknown == ()


@pytest.mark.parametrize("period_s", [0.02, 0.1])
def test_busy_and_idle_by_the_drivers_own_clock(simulated: Make, period_s: float) -> None:
    """Edges written live come back on the monotonic clock, to the period; their sum to its rounding."""
    gpus = simulated(1, period_s)
    driver = Nvml()
    try:
        spans_until(driver, 0)  # a sample tells of the time since the one before
        start = gpus[0].set("busy")
        wait_until(lambda: time.monotonic_ns() - start > 4 * period_s * 1e9, "some work")
        end = gpus[0].set("idle")
        spans = spans_until(driver, end + int(2 * period_s * 1e9))
    finally:
        driver.close()
    busy = [span for span in spans if span.busy_ns]
    assert abs(busy[0].start_ns - start) <= busy[0].edge_ns + MS
    assert abs(busy[-1].end_ns - end) <= busy[-1].edge_ns + MS
    assert all(span.edge_ns == pytest.approx(period_s * 1e9, abs=MS) for span in spans)
    # Each sample is rounded to a percent.
    assert work(spans, start, end) == pytest.approx(
        (end - start) / MS, abs=0.005 * len(busy) * period_s * 1e3 + 1
    )
    assert spans == sorted(spans, key=lambda span: span.start_ns)


def test_a_clock_that_was_set_back(simulated: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was an hour ahead: what the driver says from then on is taken, of the GPU and of its processes."""
    gpus = simulated(1, 0.02)
    gpus[0].run((100, GIB, 40))
    real, hour_ns = nvml.to_monotonic_ns, 3600 * 1000 * MS
    driver = Nvml()
    (device,) = driver.devices
    try:
        monkeypatch.setattr(nvml, "to_monotonic_ns", lambda: real() - hour_ns)
        driver.spans(device)
        device.utilization.last_us += hour_ns // 1000
        device.process_us += hour_ns // 1000
        monkeypatch.setattr(nvml, "to_monotonic_ns", real)
        start = time.monotonic_ns()
        spans = spans_until(driver, start + 100 * MS)
        rows = driver.processes(device)
    finally:
        driver.close()
    assert start - 20 * MS <= spans[0].start_ns < start + 100 * MS
    assert [row.utilization for row in rows] == [400]


def test_a_copy_is_seen_where_no_kernel_runs(simulated: Make) -> None:
    """Utilisation is of kernels alone; the memory interface tells of copies."""
    gpus = simulated(1, 0.02)
    driver = Nvml()
    try:
        spans_until(driver, 0)  # a sample tells of the time since the one before
        start = gpus[0].set("copy")
        wait_until(lambda: time.monotonic_ns() - start > 100 * MS, "a copy")
        end = gpus[0].set("idle")
        spans = spans_until(driver, end)
    finally:
        driver.close()
    assert sum(span.busy_ns for span in spans) == 0
    assert sum(span.copy_ns for span in spans) / MS == pytest.approx((end - start) / MS, abs=3)


@pytest.mark.parametrize(
    ("bit", "word"),
    [
        (simulator.SAMPLES, "utilisation"),
        (simulator.MEMORY, "memory"),
        (simulator.POWER, "power"),
        (simulator.THROTTLE, "throttling"),
        (simulator.PROCESSES, "processes"),
    ],
)
def test_what_a_card_cannot_is_unknown_with_a_reason(simulated: Make, bit: int, word: str) -> None:
    """Not Supported is null, never 0, and asked once only."""
    gpus = simulated()
    gpus[0].unsupported = bit
    driver = Nvml()
    try:
        (device,) = driver.devices
        assert device.facts.unknown == (f"{word}: Not Supported",)
        state = driver.state(device)
        assert (state.power_mw is None) == (bit == simulator.POWER)
        assert (state.throttle is None) == (bit == simulator.THROTTLE)
        assert (state.memory_used_bytes is None) == (bit == simulator.MEMORY)
        calls = gpus.state.calls
        driver.spans(device)
        driver.state(device)
        driver.processes(device)
        again = gpus.state.calls
        driver.spans(device)
        driver.state(device)
        driver.processes(device)
    finally:
        driver.close()
    assert gpus.state.calls - again <= again - calls


def test_processes_and_garbage_rows(simulated: Make) -> None:
    """PID 0, a PID that cannot be, more memory than there is, 37100 %: dropped or unknown."""
    gpus = simulated()
    driver = Nvml()
    try:
        gpus[0].run(
            (100, 3 * GIB, 40),
            (0, GIB, 10),
            (1 << 30, GIB, 10),
            (101, 1 << 50, 371),
            (102, (1 << 64) - 1, 37100),
            (103, GIB, simulator.NO_ROW),
        )
        rows = driver.processes(driver.devices[0])
    finally:
        driver.close()
    assert [tuple(row) for row in rows] == [
        (100, 3 * GIB, 400), (101, None, None), (102, None, None), (103, GIB, None),
    ]  # fmt: skip


def test_mig_instances_are_gpus_of_their_own(simulated: Make) -> None:
    """Utilisation of a card in MIG mode is unknown without GPM; its instances tell their processes."""
    gpus = simulated()
    gpus[0].mig = 2
    gpus[0].run((100, GIB, 0, 1), (101, GIB, 0, 0))
    driver = Nvml()
    try:
        card, first, second = driver.devices
        assert (first.facts.gpu, first.facts.parent) == ("nvml:0/0", "nvml:0")
        assert "utilisation: Not Supported" in first.facts.unknown
        assert driver.processes(card) == []
        assert [row.pid for row in driver.processes(first)] == [101]
        assert [row.pid for row in driver.processes(second)] == [100]
    finally:
        driver.close()


@pytest.mark.parametrize("mig", [0, 1])
def test_gpm_gives_a_tenth_of_a_second_of_a_card_and_of_an_instance(simulated: Make, mig: int) -> None:
    """Where the card has GPM its counters are read, at no less than 100 ms, MIG or not."""
    gpus = simulated(1, 1.0)
    gpus[0].gpm, gpus[0].mig = 1, mig
    gpus[0].set("busy")
    driver = Nvml()
    found: list[EngineSpan] = []
    try:
        device = driver.devices[-1]

        def some() -> bool:
            found.extend(driver.spans(device))
            return len(found) >= 3

        wait_until(some, "GPM")
    finally:
        driver.close()
    assert all(span.busy_ns >= 0.99 * (span.end_ns - span.start_ns) for span in found)
    assert all(span.edge_ns >= 95 * MS for span in found)
    assert all(a.end_ns == b.start_ns for a, b in pairwise(found))


def test_a_lost_gpu_does_not_take_the_others_with_it(simulated: Make) -> None:
    """One falls off the bus: it is unknown, with the driver's words; the other one goes on."""
    gpus = simulated(2)
    source = Nvidia()
    try:
        list(source.read(frozenset(), True))
        gpus[0].error = simulator.GPU_IS_LOST
        readings = list(source.read(frozenset(), True))
        lost = [r for r in readings if isinstance(r, GpuSample) and r.lost]
        assert [(r.gpu, r.lost, r.memory_used_bytes) for r in lost] == [("nvml:0", "GPU is lost", None)]
        assert [r.gpu for r in readings if isinstance(r, GpuProcesses)] == ["nvml:1"]
    finally:
        source.close()
    gpus = simulated(2)
    gpus[0].error = simulator.GPU_IS_LOST  # before it was ever seen
    driver = Nvml()
    driver.close()
    assert [device.facts.gpu for device in driver.devices] == ["nvml:1"] or driver.devices[0].handle is None
    with pytest.raises(GpuLostError):
        driver.spans(driver.devices[0])


def test_a_driver_that_goes_away_and_comes_back(simulated: Make) -> None:
    """Gone: every GPU that was seen is unknown, with the reason. Back: it is found and read again."""
    gpus = simulated()
    now = 0.0
    source = Nvidia(clock=lambda: now)
    try:
        assert any(isinstance(r, GpuFacts) for r in source.read(frozenset(), True))
        gpus.state.driver_error = simulator.DRIVER_NOT_LOADED
        (gone,) = source.read(frozenset(), True)
        assert isinstance(gone, GpuSample)
        assert (gone.gpu, gone.memory_used_bytes, gone.power_mw) == ("nvml:0", None, None)
        assert gone.lost == "Driver Not Loaded"
        assert list(source.read(frozenset(), True)) == []  # not tried again at once
        now += 0.6
        (still,) = source.read(frozenset(), True)
        assert isinstance(still, GpuSample)
        assert "Driver Not Loaded" in still.lost
        gpus.state.driver_error = 0
        now += 2
        assert any(isinstance(r, GpuFacts) for r in source.read(frozenset(), True))
    finally:
        source.close()


def test_no_driver_is_said_once_it_is_asked(simulated: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library without a driver: an error with the driver's words, no crash."""
    simulated()
    monkeypatch.setenv(simulator.VARIABLE, "/nonexistent")
    with pytest.raises(DriverGoneError, match="Driver Not Loaded"):
        Nvml()


def test_the_thread_reads_while_something_is_observed(simulated: Make) -> None:
    """Started, it fills the queue by itself; stopped, it ends and lets go of the driver."""
    gpus = simulated()
    sampler = GpuSampler(lambda: [Nvidia()])
    sampler.start()
    found: list[object] = []
    wait_until(
        lambda: found.extend(sampler.drain()) or any(isinstance(r, EngineSpan) for r in found), "a span"
    )
    assert any(isinstance(r, GpuProcesses) for r in found)
    sampler.close()
    calls = gpus.state.calls
    assert not sampler.running
    sampler.drain()
    assert gpus.state.calls == calls


def test_a_driver_that_hangs_stops_nothing_else(simulated: Make) -> None:
    """While a call takes 0.3 s the queue is emptied at once, and nobody waits for the thread."""
    gpus = simulated()
    sampler = GpuSampler(lambda: [Nvidia()])
    sampler.start()
    wait_until(sampler.drain, "a reading")
    gpus.state.delay_us = 300_000
    calls = gpus.state.calls
    wait_until(lambda: gpus.state.calls > calls, "a call that hangs")
    before = gpus.state.calls
    for _ in range(100):
        sampler.drain()
    assert gpus.state.calls - before <= 1  # a hundred turns of the loop fit into one call
    thread = next(one for one in threading.enumerate() if one.name == "whyidle-gpus")
    sampler.stop()
    assert thread.is_alive()
    gpus.state.delay_us = 0
    thread.join(10)
    assert not thread.is_alive()


def test_a_script_says_what_the_gpus_do(
    simulated: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a second of a timeline that lies in the past comes out of the driver's buffer as written."""
    simulated()
    script = "gpus 2\nperiod 0.05\n# two cards\n0: idle 0.1 busy 0.2 copy 0.1\n1: busy 0.5\n"
    start = int(time.time() - 2)  # a whole number of periods
    with simulator.play(tmp_path / "script", script, start) as gpus:
        gpus.state.since_us = (start - 1) * 1_000_000
        monkeypatch.setenv(simulator.VARIABLE, str(gpus.path))
        driver = Nvml()
        first, second = driver.devices
        for device in driver.devices:  # opening has read the buffer already
            device.utilization.restart()
        spans = driver.spans(first)
        others = driver.spans(second)
        driver.close()
    assert [round(s.busy_ns / MS) for s in spans if s.busy_ns] == [50] * 4
    assert [round(s.copy_ns / MS) for s in spans if s.copy_ns] == [50] * 2
    assert round(sum(s.busy_ns for s in others) / MS) == 500


def test_a_host_without_nvidia_pays_nothing() -> None:
    """No thread, and pynvml is not even imported."""
    code = """
import sys, threading
from whyidle_daemon.gpus import nvml
from whyidle_daemon.gpus.nvidia import Nvidia
from whyidle_daemon.gpus.sampler import GpuSampler
sampler = GpuSampler(lambda: [Nvidia()])
sampler.start()
assert not sampler.running and threading.active_count() == 1
assert "pynvml" not in sys.modules
"""
    environment = {key: value for key, value in os.environ.items() if key != "LD_LIBRARY_PATH"}
    where = Path(__file__).parent
    probe = "import ctypes; ctypes.CDLL('libnvidia-ml.so.1')"
    if subprocess.run([sys.executable, "-c", probe], env=environment, stderr=-3, check=False).returncode == 0:
        pytest.skip("this host has NVIDIA's library")
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=where, check=True)
