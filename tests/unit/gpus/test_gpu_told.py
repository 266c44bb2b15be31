"""GPUs where they are told of besides the report: doctor, the live line, ``whyidle ps``, the metrics."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from timeline import COST, HOST, MS, PID, START, S, born, died, infer, life, run

from whyidle_cli.render.live import progress_text
from whyidle_daemon.facts import EngineSpan, GpuFacts, GpuUse, Loss, Snapshot
from whyidle_daemon.gpus import drm_check
from whyidle_daemon.metrics.ledger import Ledger, series_of
from whyidle_daemon.observation import Observation
from whyidle_probes.events import CONTEXT_CUDA
from whyidle_wire.records import Progress

PERIOD = 100 * MS


def card(sys: Path, vendor: str, driver: str | None, address: str = "0000:03:00.0") -> Path:
    """A card of a /sys of the test's own; without a driver only the PCI device."""
    device = sys / "devices/pci0000:00" / address
    device.mkdir(parents=True)
    (sys / "bus/pci/devices").mkdir(parents=True, exist_ok=True)
    (sys / "bus/pci/devices" / address).symlink_to(device)
    (device / "vendor").write_text(vendor + "\n")
    (device / "device").write_text("0x744c\n")
    (device / "class").write_text("0x030000\n")
    if driver is not None:
        (sys / f"bus/pci/drivers/{driver}").mkdir(parents=True)
        (device / "driver").symlink_to(sys / f"bus/pci/drivers/{driver}")
        (sys / "class/drm/card1").mkdir(parents=True)
        (sys / "class/drm/card1/device").symlink_to(device)
    return device


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "proc/1/fdinfo").mkdir(parents=True)
    return tmp_path / "proc"


def test_doctor_lists_an_amd_gpu(tmp_path: Path, proc: Path) -> None:
    """Its name, its memory, its driver, and how it is known to be busy."""
    device = card(tmp_path / "sys", "0x1002", "amdgpu")
    for name, text in (("product_name", "Radeon Test"), ("mem_info_vram_total", "24000000000")):
        (device / name).write_text(text)
    (device / "gpu_busy_percent").write_text("7")
    found = drm_check.look(proc, tmp_path / "sys")
    assert found == (("drm:1: Radeon Test, 24.0 GB, driver amdgpu, busy by gpu_busy_percent",), (), None)


def test_doctor_lists_an_intel_gpu(tmp_path: Path, proc: Path) -> None:
    """Without memory of its own, known by what the observed processes do."""
    card(tmp_path / "sys", "0x8086", "xe")
    (said,) = drm_check.look(proc, tmp_path / "sys").cards
    assert (
        said
        == "drm:1: Intel GPU 0x744c, no memory of its own, driver xe, busy by DRM fdinfo of what is observed"
    )


def test_doctor_says_what_is_missing(tmp_path: Path, proc: Path) -> None:
    """A GPU on the bus without its driver: which module to load."""
    card(tmp_path / "sys", "0x1002", None)
    found = drm_check.look(proc, tmp_path / "sys")
    assert found.cards == ()
    assert found.missing == ("AMD GPU 0000:03:00.0: no DRM device",)
    assert found.fix == "load its driver: modprobe amdgpu"


def test_doctor_says_what_may_not_be_read(
    tmp_path: Path, proc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that only root may read: the permission, and how to give it."""
    device = card(tmp_path / "sys", "0x1002", "amdgpu")
    (device / "gpu_busy_percent").write_text("7")
    (tmp_path / "sys/class/kfd/kfd/proc").mkdir(parents=True)
    closed = {
        str(tmp_path / "sys/class/drm/card1/device/gpu_busy_percent"),
        str(tmp_path / "sys/class/kfd/kfd/proc"),
    }
    access, listdir = os.access, os.listdir

    def refused(path: Any) -> list[str]:
        if str(path).startswith(str(proc)):
            raise PermissionError(13, "Permission denied", str(path))
        return listdir(path)

    monkeypatch.setattr(os, "access", lambda path, mode: str(path) not in closed and access(path, mode))
    monkeypatch.setattr(os, "listdir", refused)
    found = drm_check.look(proc, tmp_path / "sys")
    assert [text.split(":")[0] for text in found.missing] == [
        "drm",
        "fdinfo of other users' processes may not be read",
        "/sys/class/kfd/kfd/proc may not be read",
    ]
    assert found.fix is not None
    assert "root" in found.fix


def test_a_host_without_either_has_nothing_to_mend(tmp_path: Path, proc: Path) -> None:
    """No card, no complaint."""
    assert drm_check.look(proc, tmp_path / "sys") == ((), (), None)


def observed(*kinds: str) -> tuple[Observation, Snapshot]:
    """A process that computes for a tenth of each second, its engines, and a GPU that is busy for 0.3."""
    observation = Observation(START, (PID,), ("x",), "2026-01-01T00:00:00Z")
    agent = life([infer(100 * MS), run(900 * MS)] * 3)
    observation.add(GpuFacts("nvml:0", START, 0, "Test", "1", None, "nvml", True))
    observation.add(GpuUse("nvml:0", PID, START, 1 << 30))
    for number in range(30):
        at = START + number * PERIOD
        observation.add(EngineSpan("nvml:0", at, at + PERIOD, 30 * MS, 0, PERIOD))
    assert agent.engine is not None
    engines = {"llama": agent.engine, "cuda": agent.engine._replace(context=CONTEXT_CUDA)}
    return observation, Snapshot(START + 3 * S, (agent.thread,), tuple(engines[kind] for kind in kinds))


@pytest.mark.parametrize(
    ("kinds", "share"), [((), 0.3), (("llama",), 0.1), (("cuda",), 0.1), (("llama", "cuda"), 0.1)]
)
def test_the_live_line_knows_gpus(kinds: tuple[str, ...], share: float) -> None:
    """The busy share is the finest engine's, the GPU's stands beside it."""
    observation, snapshot = observed(*kinds)
    progress = observation.progress(snapshot)
    assert progress.engine_busy_share == pytest.approx(share, abs=0.01)
    (gpu,) = progress.gpus
    assert (gpu.gpu, gpu.kind, gpu.pid, gpu.simulated) == ("nvml:0", "nvml", PID, True)
    assert gpu.busy_share == pytest.approx(0.3)


def test_the_live_line() -> None:
    """In words; whatever a daemon sends, the terminal is safe."""
    gpus: tuple[dict[str, Any], ...] = (
        {"id": "nvml:0", "busy_share": 0.3, "simulated": True},
        {"id": "drm:1\x1b[2J", "busy_share": None, "simulated": False},
    )
    text = progress_text(Progress(1, 3.0, 0.1, None, 1, 1, 0, gpus))
    assert "engine busy 10 %  nvml:0 (simulated) 30 % busy  drm:1" in text
    assert "\x1b" not in text


def test_metrics_of_gpus() -> None:
    """A GPU's own seconds, whatever engine is finer; the idle seconds of engines are of the finest alone."""
    observation, snapshot = observed("llama")
    sums = series_of(observation.report(snapshot, HOST, Loss(), COST, None))
    assert sums["gpu_busy", ("nvml:0",)] == pytest.approx(0.9)
    assert sums["gpu_idle", ("nvml:0",)] == pytest.approx(2.1)
    assert ("idle", ("nvml",)) not in sums
    assert sums["idle", ("llama",)] == pytest.approx(2.7)


def test_metrics_of_a_gpu_whose_users_come_and_go() -> None:
    """At every scrape: no counter goes back, each idle second once, nothing of when nobody here used it."""
    ledger, observation = (
        Ledger(10, functions=True),
        Observation(START, (PID,), ("x",), "2026-01-01T00:00:00Z"),
    )
    observation.add(GpuFacts("nvml:0", START, 0, "Test", "1", None, "nvml", True))
    before: dict[Any, float] = {}
    for number in range(600):  # in turn, for ten seconds: a tool uses it, somebody else does
        begin, tool = START + number * PERIOD * 10, PID + 1 + number // 20
        if number % 20 == 0:
            observation.add(born(tool, PID, begin))
            observation.add(GpuUse("nvml:0", tool, begin, 1 << 30))
        if number % 20 == 10:
            observation.add(died(tool, begin))
        for at in range(begin, begin + S, PERIOD):
            observation.add(EngineSpan("nvml:0", at, at + PERIOD, (at - begin) // 20, 0, PERIOD))
        if number % 7 == 0:
            report = observation.report(Snapshot(begin + S), HOST, Loss(), COST, None)
            ledger.update(1, "w", report, float(number))
            now = dict(ledger.counters()["w"])
            assert all(now[key] >= value for key, value in before.items())
            before = now
    ledger.update(1, "w", observation.report(Snapshot(START + 600 * S), HOST, Loss(), COST, None), 600.0)
    sums = ledger.counters()["w"]
    assert sums["gpu_busy", ("nvml:0",)] + sums["gpu_idle", ("nvml:0",)] == pytest.approx(300)
    assert sums["gpu_busy", ("nvml:0",)] == pytest.approx(300 * 0.225)
    assert sums["idle", ("nvml",)] == pytest.approx(sums["gpu_idle", ("nvml:0",)])
    causes = sum(value for (name, _), value in sums.items() if name == "cause")
    assert causes == pytest.approx(sums["idle", ("nvml",)])
