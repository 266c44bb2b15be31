"""What the run would have been like with a fix: predicted from this run alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from rich.text import Text

from whyidle_cli.render.text import bar, flow, wrap
from whyidle_cli.render.units import count, percent, seconds
from whyidle_cli.sanitize import sanitize

_LABEL: Final = 12
_TIME: Final = 10
_BUSY: Final = 12
_MOST_FUNCTIONS: Final = 3


def what_if_lines(predictions: Iterable[dict[str, Any]], width: int) -> list[Text]:
    """For each fix: the run as it was and as it would be, as bars of one scale."""
    lines: list[Text] = []
    for found in predictions:
        wall, predicted = found["wall_s"], found["predicted_wall_s"]
        if lines:
            lines.append(Text())
        less = percent(1 - predicted / wall) if wall > 0 else "?"
        lines += wrap(f"If {_calls(found)}: {less} less time.", width, "bold", "  ", "  ")
        utilization, improved = _busiest(found["engines"])
        room = width - 2 - _LABEL - 1 - _TIME - _BUSY
        for label, length, busy, style in (
            ("this run", wall, utilization, "magenta"),
            ("predicted", predicted, improved, "green"),
        ):
            lines.append(
                Text.assemble(
                    "  ", (label.ljust(_LABEL), "dim"),
                    (bar(length / wall if wall > 0 else None, room).ljust(room), style),
                    " ", (seconds(length).rjust(_TIME), "bold"),
                    (f"{percent(busy)} busy" if busy is not None else "").rjust(_BUSY),
                )
            )  # fmt: skip
        low_high = seconds(found["predicted_wall_low_s"]), seconds(found["predicted_wall_high_s"])
        remains = found["remains_s"]
        known = [
            *(f"{name} {seconds(value)}" for name, value in remains.items() if value > 0),
            f"runs differ: {low_high[0]} to {low_high[1]}" if low_high[0] != low_high[1] else "",
        ]
        lines += flow(known, width, "dim", indent=" " * (2 + _LABEL))
    return lines


def _calls(found: dict[str, Any]) -> str:
    names = [f"{sanitize(str(name), 60)}()" for name in found["functions"]]
    shown = ", ".join(names[:_MOST_FUNCTIONS]) or "the thread"
    if len(names) > _MOST_FUNCTIONS:
        shown += f" and {len(names) - _MOST_FUNCTIONS} more"
    of = f"{count(found['calls'], 'call')} in {count(found['runs'], 'step')}"
    return f"{shown} issued the calls of each step together ({of})"


def _busiest(engines: list[dict[str, Any]]) -> tuple[float | None, float | None]:
    """Utilisation now and predicted, of the engine that gains the most."""
    known = [(one["utilization"], one["predicted_utilization"]) for one in engines]
    pairs = [(now, then) for now, then in known if now is not None and then is not None]
    return max(pairs, key=lambda pair: pair[1] - pair[0], default=(None, None))
