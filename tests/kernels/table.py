"""README.md's table of the kernels, made of ``results.json`` and of nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .results import series
from .rows import ROWS

README = Path(__file__).resolve().parents[2] / "README.md"
_BEGIN, _END = "<!-- kernels: begin -->\n", "\n<!-- kernels: end -->"
_BLOCK = re.compile(re.escape(_BEGIN) + "(.*?)" + re.escape(_END), re.S)


def table(results: dict[str, Any]) -> str:
    """Rows by kernel, a note for each *no*, and what the doctor says on each."""
    kernels = results["kernels"]
    notes: list[str] = []
    lines = [
        "| | " + " | ".join(series(kernel["release"]) for kernel in kernels) + " |",
        "|---|" + "---|" * len(kernels),
    ]
    for row in ROWS:
        cells = [_cell(kernel, row.name, notes) for kernel in kernels]
        lines.append(f"| {row.label} | " + " | ".join(cells) + " |")
    lines.append("| Uprobes attach by | " + " | ".join(_uprobes(kernel) for kernel in kernels) + " |")
    lines.append("")
    lines += [f"{number}. {note}" for number, note in enumerate(notes, 1)]
    lines += [""] if notes else []
    where = ", ".join(f"{k['release']} ({k['suite']}, {k['date']})" for k in kernels)
    lines.append(f"By `{results['command']}`, on Debian's kernels {where}.")
    return "\n".join(lines)


def _cell(kernel: dict[str, Any], name: str, notes: list[str]) -> str:
    row = kernel["rows"].get(name)
    if row is None:
        return "not run"
    if row["failed"]:
        return f"**fails** ({len(row['failed'])} of {len(row['failed']) + row['passed']})"
    if not row["lacks"]:
        return "yes"
    numbers = []
    for reason in row["lacks"]:
        if reason not in notes:
            notes.append(reason)
        numbers.append(str(notes.index(reason) + 1))
    return ("in part" if row["passed"] else "no") + f" ({', '.join(numbers)})"


def _uprobes(kernel: dict[str, Any]) -> str:
    return "links" if "by links" in kernel["uprobes"] else "perf events"


def written(path: Path = README) -> str:
    """The table as it stands in README.md."""
    found = _BLOCK.search(path.read_text())
    if not found:
        raise ValueError(f"{path} has no block between {_BEGIN.strip()} and {_END.strip()}")
    return found[1]


def write(text: str, path: Path = README) -> None:
    """Replace it."""
    old = path.read_text()
    written(path)
    path.write_text(_BLOCK.sub(lambda _: _BEGIN + text + _END, old))
