"""What was measured, kept in ``results/NAME.json``, and the tables made of it.

Each benchmark has a file of its own with when and where it ran: one can be run again without the others, and
no table mixes two runs.
"""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.measure import ROOT, Row

FOLDER = Path(__file__).parent / "results"
PAGE = Path(__file__).parent / "RESULTS.md"
HEADLINES = ("accuracy", "syscalls", "switches", "demo", "scale")
"""What the README shows; the page has all."""
ELSEWHERE = {"soak": "python -m benchmarks.soak --keep"}
"""What is not run with the others, and by which command."""


def store(name: str, title: str, rows: list[Row], folder: Path = FOLDER) -> dict[str, Any]:
    """Keep one benchmark's rows, with the machine they are from."""
    found = {
        "title": title,
        "measured_at": datetime.now(UTC).strftime("%Y-%m-%d"),
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "rows": [row._asdict() for row in rows],
    }
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return found


def load(folder: Path = FOLDER) -> dict[str, dict[str, Any]]:
    """By name; those that were never run are missing."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def table(name: str, found: dict[str, Any]) -> str:
    """Markdown: the title, the rows, and what made them."""
    command = ELSEWHERE.get(name, f"python -m benchmarks {name}")
    lines = [f"**{found['title']}**", "", "| what | measured | goal | |", "|---|---|---|---|"]
    lines += [f"| {r['what']} | {r['value']} | {r['goal']} | {r['verdict']} |" for r in found["rows"]]
    lines += [
        "",
        f"`{command}`, {found['measured_at']}, Linux {found['kernel']}, {found['cpus']} virtual CPUs.",
    ]
    if picture(name).exists():
        lines += ["", f"![{found['title']}]({picture(name).name})"]
    return "\n".join(lines)


def picture(name: str) -> Path:
    """Where the picture of a result is, if it has one: beside the page that shows it."""
    return PAGE.with_name(f"{name}.png")


def headlines(results: dict[str, dict[str, Any]]) -> str:
    """The tables of the README."""
    shown = [table(name, results[name]) for name in HEADLINES if name in results]
    where = PAGE.relative_to(ROOT)
    return "\n\n".join([*shown, f"All tables: [{where}]({where})."])


def page(results: dict[str, dict[str, Any]], order: list[str]) -> str:
    """The page of all tables, in the order in which they run, and then the others."""
    head = (
        "# What was measured\n\nWritten by `make bench`, not by hand. Absolute times vary between machines: "
        "what counts are the ratios, taken from\nruns that alternate, median of several."
    )
    shown = [table(name, results[name]) for name in (*order, *ELSEWHERE) if name in results]
    return "\n\n".join([head, *shown]) + "\n"
