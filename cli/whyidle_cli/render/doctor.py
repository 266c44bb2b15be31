"""What the doctor found, as text."""

from __future__ import annotations

import sys
from typing import Any, Final, TextIO

from rich.console import Console
from rich.text import Text

from whyidle_cli.render.report import report_width
from whyidle_cli.render.text import column, wrap

_MARKS: Final = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "missing": ("✗", "red")}
_NAME: Final = 16


def print_checks(diagnosis: dict[str, Any], stream: TextIO | None = None) -> None:
    """Print every check, with the fix where one is needed; raises KeyError or TypeError for another shape."""
    stream = sys.stdout if stream is None else stream
    width = report_width(stream)
    lines: list[Text] = []
    for check in diagnosis["checks"]:
        mark, style = _MARKS.get(check["status"], ("?", "yellow"))
        head = Text.assemble((mark, f"bold {style}"), " ", (column(check["name"], _NAME), "bold"), " ")
        first, *rest = wrap(str(check["detail"]), width - _NAME - 3) or [Text()]
        lines.append(head.append_text(first))
        indent = " " * (_NAME + 3)
        lines += [Text(indent).append_text(line) for line in rest]
        if check["status"] != "ok":
            if check.get("needed_for"):
                lines += wrap(f"needed for: {check['needed_for']}", width, "dim", first=indent)
            if check.get("fix"):
                lines += wrap(f"fix: {check['fix']}", width, "bold", first=indent, rest=indent + "     ")
    verdict = _verdict(diagnosis)
    console = Console(file=stream, width=width, highlight=False, markup=False, emoji=False)
    with console.capture() as captured:
        for line in [*lines, Text(), verdict]:
            console.print(line, no_wrap=True, overflow="ignore", crop=False)
    stream.write(captured.get())


def _verdict(diagnosis: dict[str, Any]) -> Text:
    if diagnosis.get("served"):
        return Text("The service answers you: run, attach, ps and watch ask it.", "bold green")
    if diagnosis["can_run"]:
        return Text("This host can run whyidle.", "bold green")
    return Text("This host cannot run whyidle yet: see the fixes marked ✗.", "bold red")
