"""What the kernel tells of a process's use of a DRM device: ``/proc/PID/fdinfo/N``. Pure.

The format is the kernel's Documentation/gpu/drm-usage-stats.rst: ``drm-engine-NAME: N ns`` since the file was
opened, or ``drm-cycles-NAME`` and ``drm-total-cycles-NAME`` (xe); memory by region in KiB or MiB.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

MAX_LINES = 256
_NUMBER = re.compile(r"(\d{1,20})(?: (ns|KiB|MiB|GiB))?$", re.ASCII)
_UNITS = {None: 1, "ns": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_COPY = re.compile(r"copy|dma|bcs", re.ASCII)
_CARD = re.compile(r"vram|local|lmem", re.ASCII)


class Engine(NamedTuple):
    """One engine of a client: ``used`` of ``total`` cycles, or nanoseconds when ``total`` is ``None``."""

    used: int
    total: int | None
    capacity: int = 1


class ClientUsage(NamedTuple):
    """One open file of a DRM device. ``client`` is the same for copies of one file."""

    device: str
    client: int
    engines: dict[str, Engine]
    memory_bytes: int | None


def parse(text: str) -> ClientUsage | None:
    """An fdinfo file; ``None`` when it is of no DRM device or does not say which."""
    values: dict[str, str] = {}
    for line in text.splitlines()[:MAX_LINES]:
        key, colon, value = line.partition(":")
        if colon and key.startswith("drm-"):
            values[key] = value.strip()
    device, client = values.get("drm-pdev", ""), _number(values.get("drm-client-id"))
    if not device or client is None:
        return None
    engines: dict[str, Engine] = {}
    for key, value in values.items():
        amount = _number(value)
        if amount is None:
            continue
        if key.startswith("drm-engine-capacity-"):
            continue
        if key.startswith("drm-engine-"):
            name = key.removeprefix("drm-engine-")
            capacity = _number(values.get(f"drm-engine-capacity-{name}")) or 1
            engines[name] = Engine(amount, None, capacity)
        elif key.startswith("drm-cycles-"):
            name = key.removeprefix("drm-cycles-")
            total = _number(values.get(f"drm-total-cycles-{name}"))
            capacity = _number(values.get(f"drm-engine-capacity-{name}")) or 1
            if total is not None:
                engines[name] = Engine(amount, total, capacity)
    return ClientUsage(device, client, engines, _memory(values))


def _number(text: str | None) -> int | None:
    match = _NUMBER.match(text) if text is not None else None
    return int(match[1]) * _UNITS[match[2]] if match else None


def _memory(values: dict[str, str]) -> int | None:
    """What is resident on the card; of a GPU that has no memory of its own, in the host's."""
    for prefix in ("drm-resident-", "drm-memory-", "drm-total-"):
        regions = {
            key.removeprefix(prefix): _number(v) for key, v in values.items() if key.startswith(prefix)
        }
        known = {name: size for name, size in regions.items() if size is not None}
        if known:
            card = [size for name, size in known.items() if _CARD.search(name)]
            return sum(card) if card else sum(known.values())
    return None


def worked(before: ClientUsage, after: ClientUsage, length_ns: int) -> tuple[int, int]:
    """Nanoseconds of computing and of copying between two readings of one client, by its busiest of each.

    Engines run beside one another: the busiest is what is certain.
    """
    busy = copy = 0
    for name, engine in after.engines.items():
        last = before.engines.get(name)
        if last is None or engine.used < last.used:
            continue
        amount = engine.used - last.used
        if engine.total is not None:
            cycles = engine.total - (last.total or 0)
            amount = amount * length_ns // cycles if cycles > 0 else 0
        amount = min(amount // max(1, engine.capacity), length_ns)
        if _COPY.search(name):
            copy = max(copy, amount)
        else:
            busy = max(busy, amount)
    return busy, copy


def together(parts: Iterable[tuple[int, int]], length_ns: int) -> tuple[int, int]:
    """The work of several clients: they take turns, so it adds up, to the time there was."""
    busy = copy = 0
    for computed, copied in parts:
        busy, copy = busy + computed, copy + copied
    busy = min(busy, length_ns)
    return busy, min(copy, length_ns - busy)
