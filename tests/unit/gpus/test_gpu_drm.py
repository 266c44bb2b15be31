"""AMD's and Intel's GPUs out of a /sys and a /proc of the test's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whyidle_daemon.facts import EngineSpan, GpuFacts, GpuSample
from whyidle_daemon.gpus.drm import Drm
from whyidle_daemon.gpus.fdinfo import parse, together, worked
from whyidle_daemon.gpus.sampler import GpuProcesses

MS = 1_000_000
PCI = "0000:03:00.0"
PID = 4711


class Host:
    """A machine with one card and one process."""

    def __init__(self, root: Path, vendor: str, driver: str) -> None:
        self.sys, self.proc, self.now = root / "sys", root / "proc", 1_000 * MS
        self.device = self.sys / "devices/pci0000:00" / PCI
        for folder in (self.device, self.sys / "class/drm/card1", self.sys / "class/drm/renderD128"):
            folder.mkdir(parents=True)
        (self.sys / f"bus/pci/drivers/{driver}").mkdir(parents=True)
        (self.device / "driver").symlink_to(self.sys / f"bus/pci/drivers/{driver}")
        for name in ("card1", "renderD128"):
            (self.sys / f"class/drm/{name}/device").symlink_to(self.device)
        (self.sys / "class/drm/card1-DP-1").mkdir()
        self.put("vendor", vendor)
        self.put("device", "0x744c")
        self.drm = Drm(self.proc, self.sys, lambda: self.now)

    def put(self, name: str, text: str) -> None:
        (self.device / name).write_text(text + "\n")

    def open(self, number: int, fdinfo: str, pid: int = PID, path: str = "/dev/dri/renderD128") -> None:
        """A process has a file open; ``fdinfo`` is what the kernel says of it."""
        for kind in ("fd", "fdinfo"):
            (self.proc / str(pid) / kind).mkdir(parents=True, exist_ok=True)
        link = self.proc / str(pid) / "fd" / str(number)
        if not link.is_symlink():
            link.symlink_to(path)
        (self.proc / str(pid) / "fdinfo" / str(number)).write_text(fdinfo)

    def read(self, *pids: int, state: bool = True, after_ms: int = 100) -> list[object]:
        self.now += after_ms * MS
        return list(self.drm.read(frozenset(pids or (PID,)), state))


def fdinfo(client: int = 1, memory: str = "drm-memory-vram:\t2048 KiB\n", **engines: str) -> str:
    lines = "".join(f"drm-engine-{name.replace('_', '-')}:\t{value}\n" for name, value in engines.items())
    return f"pos:\t0\ndrm-driver:\tx\ndrm-pdev:\t{PCI}\ndrm-client-id:\t{client}\n{lines}{memory}"


def spans(readings: list[object]) -> list[EngineSpan]:
    return [reading for reading in readings if isinstance(reading, EngineSpan)]


def users(readings: list[object]) -> list[tuple[int, int | None]]:
    (found,) = [reading for reading in readings if isinstance(reading, GpuProcesses)]
    return [(row.pid, row.memory_bytes) for row in found.rows]


def test_amdgpu_says_how_busy_the_card_is(tmp_path: Path) -> None:
    """Name, memory, power; the card's own percentage over the time between two looks."""
    host = Host(tmp_path, "0x1002", "amdgpu")
    host.put("product_name", "Radeon PRO W7900")
    host.put("mem_info_vram_total", str(48 << 30))
    host.put("mem_info_vram_used", str(1 << 30))
    host.put("gpu_busy_percent", "0")
    (host.device / "hwmon/hwmon3").mkdir(parents=True)
    host.put("hwmon/hwmon3/power1_average", "241000000")
    assert host.drm.present()
    first = host.read()
    facts = next(reading for reading in first if isinstance(reading, GpuFacts))
    assert (facts.gpu, facts.name, facts.driver) == ("drm:1", "Radeon PRO W7900", "amdgpu")
    assert (facts.memory_total_bytes, facts.via, facts.simulated) == (48 << 30, "drm", False)
    state = next(reading for reading in first if isinstance(reading, GpuSample))
    assert (state.memory_used_bytes, state.power_mw) == (1 << 30, 241_000)
    assert spans(first) == []
    host.put("gpu_busy_percent", "40")
    (span,) = spans(host.read())
    assert (span.end_ns - span.start_ns, span.busy_ns, span.edge_ns) == (100 * MS, 40 * MS, 100 * MS)


def test_intel_is_as_busy_as_the_processes_make_it(tmp_path: Path) -> None:
    """i915: nanoseconds per engine and client; a copy is a copy, and two descriptors are one client."""
    host = Host(tmp_path, "0x8086", "i915")
    host.open(5, fdinfo(render="1000 ns", copy="0 ns", capacity_video="2"))
    host.open(6, fdinfo(render="1000 ns", copy="0 ns"))
    host.open(7, "pos: 0\n", path="/tmp/x")
    first = host.read()
    assert users(first) == [(PID, 2 << 20)]
    host.open(5, fdinfo(render=f"{1000 + 60 * MS} ns", copy=f"{30 * MS} ns"))
    (span,) = spans(host.read())
    assert (span.busy_ns, span.copy_ns) == (60 * MS, 30 * MS)
    (span,) = spans(host.read())
    assert (span.busy_ns, span.copy_ns) == (0, 0)


def test_xe_counts_cycles(tmp_path: Path) -> None:
    """Cycles of an engine out of all that passed are a share of the time."""
    host = Host(tmp_path, "0x8086", "xe")

    def cycles(used: int, total: int) -> str:
        more = f"drm-cycles-rcs:\t{used}\ndrm-total-cycles-rcs:\t{total}\ndrm-cycles-bcs:\t{used}\n"
        return fdinfo(memory=more + f"drm-total-cycles-bcs:\t{total}\ndrm-resident-vram0:\t3 MiB\n")

    host.open(5, cycles(100, 1000))
    assert users(host.read()) == [(PID, 3 << 20)]
    host.open(5, cycles(350, 2000))
    (span,) = spans(host.read())
    assert (span.busy_ns, span.copy_ns) == (25 * MS, 25 * MS)


def test_rocm_is_found_under_kfd(tmp_path: Path) -> None:
    """A compute process that holds no DRM client's memory: its PID is under kfd, its card by the node."""
    host = Host(tmp_path, "0x1002", "amdgpu")
    host.put("gpu_busy_percent", "99")
    for node, number, minor in (("0", "0", "0"), ("1", "51309", "128")):
        folder = host.sys / f"class/kfd/kfd/topology/nodes/{node}"
        folder.mkdir(parents=True)
        (folder / "gpu_id").write_text(number + "\n")
        (folder / "properties").write_text(f"simd_count 4\ndrm_render_minor {minor}\n")
    process = host.sys / f"class/kfd/kfd/proc/{PID}"
    process.mkdir(parents=True)
    (process / "vram_51309").write_text(f"{7 << 30}\n")
    assert users(host.read(PID, 99)) == [(PID, 7 << 30)]


def test_a_card_that_goes_away_is_unknown_and_says_why(tmp_path: Path) -> None:
    """Unplugged: no span, no zero, one sample with the reason; back again, it goes on."""
    host = Host(tmp_path, "0x1002", "amdgpu")
    host.put("gpu_busy_percent", "50")
    host.read()
    moved = host.device.rename(host.device.with_name("gone"))
    gone = host.read()
    assert spans(gone) == []
    (state,) = [reading for reading in gone if isinstance(reading, GpuSample)]
    assert (state.memory_used_bytes, state.lost) == (None, "the device is gone from sysfs")
    moved.rename(host.device)
    host.read()
    assert len(spans(host.read())) == 1


def test_a_program_that_only_opened_the_card_does_not_use_it(tmp_path: Path) -> None:
    """Any desktop program has the device open: no memory and no work is no use."""
    host = Host(tmp_path, "0x8086", "i915")
    host.open(5, fdinfo(memory="drm-memory-vram: 0 KiB\n", render="0 ns"))
    assert users(host.read()) == []


@pytest.mark.parametrize("vendor", ["0x10de", "0x1af4", ""])
def test_other_makers_are_left_to_others(tmp_path: Path, vendor: str) -> None:
    """NVIDIA's cards are NVML's business, a virtual display is no GPU."""
    host = Host(tmp_path, vendor, "x")
    assert not host.drm.present()
    assert not Drm(tmp_path, tmp_path / "none").present()


texts = st.text(max_size=200) | st.lists(
    st.sampled_from(
        "drm-pdev: a,drm-client-id: 1,drm-engine-r: 5 ns,drm-engine-r: -5 ns,drm-cycles-r: 7,"
        "drm-total-cycles-r: 7,drm-engine-capacity-r: 0,drm-memory-vram: 1 GiB,drm-engine-copy: 999999999 ns,"
        "drm-engine-r: 5 s,drm-client-id: 99999999999999999999999,drm-memory-x: ٣ KiB".split(",")
    ),
    max_size=12,
).map("\n".join)


@given(texts, texts, st.integers(1, 1000))
def test_no_file_makes_an_impossible_answer(first: str, second: str, length: int) -> None:
    """Whatever is in the files: no exception, no more work than time."""
    before, after = parse(first), parse(second)
    if before is not None and after is not None:
        busy, copy = together([worked(before, after, length)] * 3, length)
        assert 0 <= busy <= length
        assert 0 <= copy <= length - busy
