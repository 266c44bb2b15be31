"""Runs that alternate, and what to say of them."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
BIN = ROOT / ".venv" / "bin"
OUT = ROOT / "out" / "bench"


class Row(NamedTuple):
    """One line of a result table: all text, ready to print."""

    what: str
    value: str
    goal: str
    verdict: str


def alternate(runs: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Run everything once per round, in turn, so that drift of the machine hits all alike."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        for name, run in runs.items():
            say(f"  round {number + 1}/{rounds}: {name}")
            found[name].append(run())
    return found


def ratio(of: list[float], to: list[float]) -> float:
    """Median of the ratios pair by pair."""
    return statistics.median(a / b for a, b in zip(of, to, strict=True))


def spread(values: list[float], form: str = "{:.3g}") -> str:
    """``median (min-max)``."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{form.format(middle)} ({form.format(low)} to {form.format(high)})"


def judge(met: bool) -> str:
    return "met" if met else "missed"


def say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def compile_c(name: str, *flags: str) -> Path:
    """Compile a C program of this folder into out/bench."""
    OUT.mkdir(parents=True, exist_ok=True)
    target = OUT / name
    source = Path(__file__).parent / f"{name}.c"
    subprocess.run(["cc", "-O2", *flags, "-o", target, source], check=True)
    return target


def observer(socket: Path) -> subprocess.Popen[bytes]:
    """A daemon that observes what it is asked to, and nothing else that runs here."""
    socket.unlink(missing_ok=True)  # of an earlier one, which would pass for this one's
    config = socket.with_suffix(".toml")
    config.write_text("[discovery]\nenabled = false\n")
    return subprocess.Popen(
        [BIN / "whyidled", "--socket", socket, "--config", config], stderr=subprocess.DEVNULL
    )


def tool(*names: str) -> str | None:
    """The first of these programs that is installed."""
    return next((path for name in names if (path := shutil.which(name))), None)
