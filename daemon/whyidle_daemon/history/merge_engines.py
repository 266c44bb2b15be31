"""The engines of several parts of the history as one. Pure.

Seconds and counts are summed, peaks are peaks, what an engine is or holds now is what the last part says.
Percentiles cannot be summed: latency is ``None`` when more than one part has it.
"""

from __future__ import annotations

from typing import Any, Final

from whyidle_daemon.gpus.usage import is_gpu
from whyidle_daemon.inferences import MAX_INFERENCES
from whyidle_daemon.intervals import uncovered, united

JOIN_S: Final = 0.1
"""What ended so long before the next begins, or after, ends where that begins."""
_SUMMED: Final = (
    *("busy_s", "idle_s", "idle_attributed_s", "calls", "failed_calls", "calls_unseen_s"),
    *("launches_unseen_s", "copy_s", "idle_scattered_s", "unseen_s"),
)
_SECONDS: Final = tuple(name for name in _SUMMED if name.endswith("_s"))
_PEAKS: Final = ("memory_peak_bytes", "other_processes", "end_s")

Engine = dict[str, Any]


def merged_engines(parts: list[dict[str, Any]], offsets: list[float]) -> list[Engine]:
    """In the order in which they appeared. ``offsets``: seconds from the first part's begin to each one's."""
    of: dict[str, list[Engine]] = {}
    seen: dict[str, list[tuple[float, float]]] = {}  # of a host's GPU: when some target's part has it
    for part, offset in zip(parts, offsets, strict=True):
        for engine in part["engines"]:
            moved = _moved(engine, offset)
            if is_gpu(engine):
                begin = moved.get("start_s", offset)
                end = moved.get("end_s", begin + _lasted(engine))
                before = seen.get(engine["id"], [])
                new = uncovered(before, begin, end)
                seen[engine["id"]] = united([*before, (begin, end)])
                if new <= JOIN_S and engine["id"] in of:  # all of it was seen by another
                    continue
                if end - begin - new > JOIN_S:
                    moved |= _share(engine, new / (end - begin))
            of.setdefault(engine["id"], []).append(moved)
    return [_merged(pieces) if len(pieces) > 1 else pieces[0] for pieces in of.values()]


def _share(engine: Engine, share: float) -> Engine:
    """What has only a share of an engine's seconds, the rest being another's."""
    return {name: engine[name] * share for name in _SECONDS if engine.get(name) is not None}


def _moved(engine: Engine, offset: float) -> Engine:
    moved = dict(engine)
    moved |= {name: engine[name] + offset for name in ("start_s", "end_s") if name in engine}
    if engine.get("inferences"):
        moved["inferences"] = [{**span, "start_s": span["start_s"] + offset} for span in engine["inferences"]]
    return moved


def _merged(pieces: list[Engine]) -> Engine:
    found: Engine = {}
    for piece in pieces:
        found |= {name: value for name, value in piece.items() if value is not None or name not in found}
    found |= {name: sum(_values(pieces, name)) for name in _SUMMED if _values(pieces, name)}
    found |= {name: max(_values(pieces, name)) for name in _PEAKS if _values(pieces, name)}
    if "start_s" in found:
        found["start_s"] = min(_values(pieces, "start_s"))
    latencies = _values(pieces, "latency_s")
    found["latency_s"] = latencies[0] if len(latencies) == 1 else None
    observed = found["busy_s"] + found["idle_s"]
    found["utilization_mean"] = found["busy_s"] / observed if observed else None
    found["finest"] = any(piece.get("finest", True) for piece in pieces)
    if "tokens" in found:
        found["tokens"] = _sums(_values(pieces, "tokens"))
    if "throttled" in found:
        shares = [(_lasted(piece), piece.get("throttled") or {}) for piece in pieces]
        reasons = dict.fromkeys(reason for _, share in shares for reason in share)
        found["throttled"] = {
            reason: _mean([(lasted, share.get(reason, 0.0)) for lasted, share in shares])
            for reason in reasons
        }
    if "context" in found:
        found["context"] = _context(_values(pieces, "context"))
    for name in ("drivers", "unknown"):
        if name in found:
            found[name] = sorted({item for items in _values(pieces, name) for item in items})
    if "processes" in found:
        found["processes"] = _processes([user for users in _values(pieces, "processes") for user in users])
    if found.get("power_mean_w") is not None:
        known = [piece for piece in pieces if piece.get("power_mean_w") is not None]
        found["power_mean_w"] = _mean([(_lasted(piece), piece["power_mean_w"]) for piece in known])
    if "inferences" in found:
        found["inferences"] = _some([span for spans in _values(pieces, "inferences") for span in spans])
    return found


def _values(pieces: list[Engine], name: str) -> list[Any]:
    return [piece[name] for piece in pieces if piece.get(name) is not None]


def _sums(items: list[dict[str, Any]]) -> dict[str, Any]:
    names = dict.fromkeys(name for item in items for name in item)
    return {name: sum(item.get(name, 0) for item in items) for name in names}


def _context(items: list[dict[str, Any]]) -> dict[str, Any]:
    return {**items[-1], "fill_peak": max(item["fill_peak"] for item in items)}


def _processes(users: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Users of a GPU: each with its peak, otherwise as the last part has it."""
    found: dict[int, dict[str, Any]] = {}
    for user in users:
        before = found.get(user["pid"], user)
        peaks = _values([before, user], "memory_peak_bytes")
        found[user["pid"]] = {**user, "memory_peak_bytes": max(peaks, default=None)}
    return list(found.values())


def _lasted(piece: Engine) -> float:
    """For how long it was observed; seconds."""
    return float(piece["busy_s"] + piece["idle_s"])


def _mean(values: list[tuple[float, float]]) -> float | None:
    """Each with how much it counts; ``None`` where none counts at all."""
    total = sum(weight for weight, _ in values)
    return sum(weight * value for weight, value in values) / total if total else None


def _some(spans: list[Any]) -> list[Any]:
    """At most as many as one report has, evenly chosen."""
    if len(spans) <= MAX_INFERENCES:
        return spans
    return [spans[index * len(spans) // MAX_INFERENCES] for index in range(MAX_INFERENCES)]
