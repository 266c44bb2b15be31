"""AMD's and Intel's GPUs, by sysfs and DRM fdinfo.

amdgpu tells how busy a card is (``gpu_busy_percent``); for the others it is the sum of what the observed
processes did on it. ROCm's compute queues are not in fdinfo: who uses them is under ``/sys/class/kfd``.
Everything is read below two roots, so that a test can bring its own.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from whyidle_daemon.facts import EngineSpan, GpuFacts, GpuSample
from whyidle_daemon.gpus.fdinfo import ClientUsage, parse, together, worked
from whyidle_daemon.gpus.sampler import GpuProcesses, Reading
from whyidle_daemon.gpus.samples import ProcessRow

VENDORS = {"0x1002": "AMD", "0x8086": "Intel"}
MAX_PIDS, MAX_FILES, MAX_LINKS = 256, 1024, 4096
_READ_BYTES = 16_384
_CARD = re.compile(r"card\d{1,4}$", re.ASCII)
_MINOR = re.compile(r"drm_render_minor \d{1,6}$", re.ASCII)
_MAX_GAP_NS = 5_000_000_000


class Card:
    """One GPU; ``pci`` is its address, as fdinfo has it."""

    def __init__(self, folder: Path, pci: str, facts: GpuFacts) -> None:
        self.folder = folder
        self.pci = pci
        self.facts = facts
        self.read_ns = 0
        self.lost = False


class Drm:
    """All AMD and Intel GPUs of the host."""

    def __init__(
        self,
        proc: Path = Path("/proc"),
        sys: Path = Path("/sys"),
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._proc = proc
        self._sys = sys
        self._clock = clock
        self._cards: list[Card] | None = None
        self._files: set[tuple[int, str]] = set()
        self._clients: dict[tuple[str, int], ClientUsage] = {}
        self._clients_ns = 0
        self._kfd: dict[str, Card] = {}

    def present(self) -> bool:
        """Whether a card of these makers is there."""
        return any(True for _ in self._folders())

    def close(self) -> None:
        """Nothing is held open."""

    def read(self, pids: frozenset[int], state: bool) -> Iterable[Reading]:
        """What is new of all of them."""
        if self._cards is None:
            self._cards = [self._card(folder) for folder in self._folders()]
            self._kfd = self._kfd_nodes()
            for card in self._cards:
                yield card.facts
        if state:
            self._files = set(self._find_files(pids))
        usage = list(self._read_clients())
        now = self._clock()
        for card in self._cards:
            yield from self._spans(card, usage, now)
            if state:
                yield from self._states(card, usage, pids, now)
        self._clients = {(one.device, one.client): one for _, one in usage}
        self._clients_ns = now

    # --- cards -----------------------------------------------------------------------------------------

    def _folders(self) -> Iterator[Path]:
        """``card0`` and so on, not its connectors (``card0-DP-1``)."""
        root = self._sys / "class/drm"
        try:
            names = sorted(os.listdir(root))  # noqa: PTH208 (a Path object each is not needed)
        except OSError:
            return
        for name in names:
            if _CARD.match(name) and self._word(root / name / "device/vendor") in VENDORS:
                yield root / name

    def _card(self, folder: Path) -> Card:
        device = folder / "device"
        maker = VENDORS[self._word(device / "vendor") or ""]
        name = (
            self._word(device / "product_name")
            or f"{maker} GPU {self._word(device / 'device') or ''}".strip()
        )
        total = self._number(device / "mem_info_vram_total")
        unknown = () if total is not None else ("memory: it has none of its own, or does not say",)
        driver = device.joinpath("driver").resolve().name if device.joinpath("driver").exists() else None
        number = int(folder.name.removeprefix("card"))
        facts = GpuFacts(
            f"drm:{number}", self._clock(), number, name, driver, total, "drm", unknown=tuple(unknown)
        )
        return Card(device, device.resolve().name, facts)

    def _kfd_nodes(self) -> dict[str, Card]:
        """KFD's GPU numbers, and the cards that they are."""
        found: dict[str, Card] = {}
        for node in sorted(self._sys.glob("class/kfd/kfd/topology/nodes/*"))[:64]:
            number = self._word(node / "gpu_id")
            properties = (self._text(node / "properties") or "").splitlines()
            minor = next(
                (line.split()[1] for line in properties if re.match(r"drm_render_minor \d+$", line)), None
            )
            if not number or number == "0" or minor is None:
                continue
            pci = (self._sys / f"class/drm/renderD{minor}/device").resolve().name
            for card in self._cards or ():
                if card.pci == pci:
                    found[number] = card
        return found

    # --- processes -------------------------------------------------------------------------------------

    def _find_files(self, pids: frozenset[int]) -> Iterator[tuple[int, str]]:
        """Open files of DRM devices: a walk over all of a process's, so twice a second at most."""
        found = links = 0
        for pid in sorted(pids)[:MAX_PIDS]:
            folder = self._proc / str(pid) / "fd"
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        links += 1
                        if links > MAX_LINKS or found >= MAX_FILES:
                            return
                        try:
                            if not os.readlink(entry.path).startswith("/dev/dri/"):  # noqa: PTH115 (speed)
                                continue
                        except OSError:
                            continue
                        found += 1
                        yield pid, entry.name
            except OSError:
                continue

    def _read_clients(self) -> Iterator[tuple[int, ClientUsage]]:
        """Each client once per process, though it may have several descriptors."""
        seen: set[tuple[int, str, int]] = set()
        for pid, number in sorted(self._files):
            usage = parse(self._text(self._proc / str(pid) / "fdinfo" / number) or "")
            if usage is not None and (pid, usage.device, usage.client) not in seen:
                seen.add((pid, usage.device, usage.client))
                yield pid, usage

    def _spans(self, card: Card, usage: list[tuple[int, ClientUsage]], now: int) -> Iterator[Reading]:
        since = card.read_ns
        card.read_ns = now
        length = now - since
        if not since or not 0 < length <= _MAX_GAP_NS:
            return
        percent = self._number(card.folder / "gpu_busy_percent")
        if percent is not None and percent <= 100:
            yield EngineSpan(card.facts.gpu, since, now, length * percent // 100, 0, length)
            return
        parts = {}
        for _, one in usage:
            before = self._clients.get((one.device, one.client))
            if one.device == card.pci and before is not None and since == self._clients_ns:
                parts[one.client] = worked(before, one, length)  # shared by two processes, it worked once
        if parts:
            busy, copy = together(parts.values(), length)
            yield EngineSpan(card.facts.gpu, since, now, busy, copy, length)

    def _states(
        self, card: Card, usage: list[tuple[int, ClientUsage]], pids: frozenset[int], now: int
    ) -> Iterator[Reading]:
        memory: dict[int, int | None] = {}
        for pid, one in usage:
            idle = not one.memory_bytes and not any(engine.used for engine in one.engines.values())
            if one.device == card.pci and not idle:  # any desktop program opens every card
                memory[pid] = _sum(memory.get(pid), one.memory_bytes)
        for number, of in self._kfd.items():
            for pid in pids if of is card else ():
                held = self._number(self._sys / f"class/kfd/kfd/proc/{pid}/vram_{number}")
                if held is not None:
                    memory[pid] = max(memory.get(pid) or 0, held)
        rows = tuple(ProcessRow(pid, size) for pid, size in sorted(memory.items()))
        gone = not card.folder.exists()
        if gone or not card.lost:
            used = self._number(card.folder / "mem_info_vram_used")
            power = next(card.folder.glob("hwmon/hwmon*/power1_average"), None)
            watts = self._number(power) if power is not None else None
            lost = "the device is gone from sysfs" if gone else ""
            milliwatts = watts // 1000 if watts is not None else None
            yield GpuSample(card.facts.gpu, now, used, milliwatts, None, lost)
        card.lost = gone
        yield GpuProcesses(card.facts.gpu, now, rows)

    # --- files -----------------------------------------------------------------------------------------

    def _text(self, path: Path) -> str | None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return None
        try:
            return os.read(descriptor, _READ_BYTES).decode("utf-8", "replace")
        except OSError:  # EBUSY while the card sleeps
            return None
        finally:
            os.close(descriptor)

    def _word(self, path: Path) -> str | None:
        text = self._text(path)
        return text.strip()[:100] or None if text is not None else None

    def _number(self, path: Path) -> int | None:
        word = self._word(path)
        return int(word) if word is not None and re.fullmatch(r"[0-9]{1,19}", word) else None


def _sum(a: int | None, b: int | None) -> int | None:
    return a if b is None else b + (a or 0)
