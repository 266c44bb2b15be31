"""What can be read of AMD's and Intel's GPUs here, and what not: for ``whyidle doctor``."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from whyidle_daemon.facts import GpuFacts, GpuSample
from whyidle_daemon.gpus.drm import VENDORS, Drm

_MODULES = {"AMD": "amdgpu", "Intel": "xe or i915"}
_MAX_DEVICES = 1024
_ROOT = "run whyidle as root, or the service, which has the capabilities"


class Found(NamedTuple):
    """The cards in words, what is missing in words, and what mends the first of that."""

    cards: tuple[str, ...]
    missing: tuple[str, ...]
    fix: str | None


def look(proc: Path = Path("/proc"), sys: Path = Path("/sys")) -> Found:
    """Read every card once; changes nothing."""
    drm = Drm(proc, sys)
    cards, missing, fixes = [], [], []
    readings = list(drm.read(frozenset(), True))
    samples = {one.gpu: one for one in readings if isinstance(one, GpuSample)}
    facts = [one for one in readings if isinstance(one, GpuFacts)]
    for card in facts:
        folder = sys / f"class/drm/card{card.number}/device"
        cards.append(_card(card, samples.get(card.gpu), folder))
        for name in ("gpu_busy_percent", "mem_info_vram_used"):
            if (folder / name).exists() and not os.access(folder / name, os.R_OK):
                missing.append(f"{card.gpu}: {name} may not be read")
                fixes.append(_ROOT)
        if card.driver is None:
            missing.append(f"{card.gpu}: no driver is bound to it")
            fixes.append("dmesg tells why not")
    for address, maker in _without_driver(
        sys, {(sys / f"class/drm/card{c.number}/device").resolve() for c in facts}
    ):
        missing.append(f"{maker} GPU {address}: no DRM device")
        fixes.append(f"load its driver: modprobe {_MODULES[maker]}")
    if facts and not _reads_others(proc):
        missing.append("fdinfo of other users' processes may not be read: their use of a GPU is not seen")
        fixes.append("give it CAP_SYS_PTRACE: " + _ROOT)
    kfd = sys / "class/kfd/kfd/proc"
    if kfd.exists() and not os.access(kfd, os.R_OK | os.X_OK):
        missing.append("/sys/class/kfd/kfd/proc may not be read: who computes with ROCm is not seen")
        fixes.append(_ROOT)
    return Found(tuple(cards), tuple(missing), fixes[0] if fixes else None)


def _card(card: GpuFacts, sample: GpuSample | None, folder: Path) -> str:
    memory = f"{card.memory_total_bytes / 1e9:.1f} GB" if card.memory_total_bytes else "no memory of its own"
    busy = "gpu_busy_percent" if (folder / "gpu_busy_percent").exists() else "DRM fdinfo of what is observed"
    said = [f"{card.gpu}: {card.name}", memory, f"driver {card.driver or 'unknown'}", f"busy by {busy}"]
    if sample is not None and sample.power_mw is not None:
        said.append("power")
    return ", ".join(said)


def _without_driver(sys: Path, known: set[Path]) -> list[tuple[str, str]]:
    """Display controllers of these makers on the PCI bus that have no card: address and maker."""
    found = []
    for device in sorted((sys / "bus/pci/devices").glob("*"))[:_MAX_DEVICES]:
        try:
            kind, vendor = ((device / name).read_text().strip() for name in ("class", "vendor"))
        except OSError:
            continue
        if re.match(r"0x03", kind) and vendor in VENDORS and device.resolve() not in known:
            found.append((device.name[:16], VENDORS[vendor]))
    return found


def _reads_others(proc: Path) -> bool:
    """Whether init's open files may be looked at, as those of any observed process must be."""
    try:
        os.listdir(proc / "1/fdinfo")  # noqa: PTH208 (it is the permission that counts)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
