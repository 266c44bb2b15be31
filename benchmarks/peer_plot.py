"""The picture of ``benchmarks.peers``: a panel for each question, a row for each tool."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

OURS, PEER, INK = "#0b6e4f", "#8a8f98", "#24292f"
PANELS = {
    "syscalls": "Storm of system calls",
    "switches": "Storm of context switches",
    "redis": "redis-benchmark",
    "agent": "The reference agent",
}


def draw(found: dict[str, Any], path: Path) -> None:
    """Draw what ``benchmarks/peers.json`` holds into an SVG."""
    from benchmarks.peer_tools import WHYIDLE, tools  # noqa: PLC0415 (the plot needs no tool installed)
    from benchmarks.peers import slowdowns  # noqa: PLC0415

    names = [peer.name for peer in tools() if peer.name not in found["missing"]]
    rows = {name: len(names) - 1 - number for number, name in enumerate(names)}
    # Text as text: it scales, can be selected, and the file does not depend on this machine's fonts.
    style = {"font.family": "sans-serif", "font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "whyidle",
             "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK}  # fmt: skip
    with plt.rc_context(style):
        figure, panels = plt.subplots(2, 3, figsize=(11, 5.6), sharey=True, layout="constrained")
        flat = list(panels.flat)
        for axes, (key, title) in zip(flat, PANELS.items(), strict=False):
            axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
            runs = slowdowns(found["runs"][key]) if key in found["runs"] else {}
            _scale(axes, max([one.high for one in runs.values()], default=2))
            for name, row in rows.items():
                if (one := runs.get(name)) is None:
                    axes.text(1.02, row, "Python only", va="center", color=PEER, fontsize=8, style="italic")
                    continue
                colour = OURS if name == WHYIDLE else PEER
                axes.plot([one.low, one.high], [row, row], color=colour, linewidth=2, alpha=0.6)
                axes.plot([one.median], [row], "o", color=colour, markersize=6)
                label = f"{one.median - 1:+.1%}" if one.high < 1.5 else f"{one.median:.3g}x"
                _label(axes, max(one.high, one.median), row, label, name == WHYIDLE)
        memory = {name: statistics.median(v) / 1e6 for name, v in found["memory"].items()}
        start = {name: statistics.median(v) for name, v in found["start_up"].items()}
        for axes, values, title, unit in (
            (flat[4], memory, "Memory beside the agent, MB", "{:.0f} MB"),
            (flat[5], start, "Start-up, seconds", "{:.2f} s"),
        ):
            axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
            for name, value in values.items():
                axes.barh(rows[name], value, height=0.55, color=OURS if name == WHYIDLE else PEER)
                _label(axes, value, rows[name], unit.format(value), name == WHYIDLE)
            axes.set_xlim(0, max(values.values(), default=1) * 1.3)
            axes.grid(axis="x", color="#e4e7eb", linewidth=0.6)
        for axes in flat:
            axes.set_axisbelow(True)
            axes.set_yticks(list(rows.values()), list(rows))
            axes.tick_params(length=0)
            axes.set_ylim(-0.6, len(rows) - 0.4)
            for side in ("top", "right", "left"):
                axes.spines[side].set_visible(False)
        for axes in panels[:, 0]:
            for label in axes.get_yticklabels():
                if label.get_text() == WHYIDLE:
                    label.set(color=OURS, fontweight="bold")
        figure.suptitle(
            f"Slowdown: times the bare run, median and 95 % interval, logarithmic.  Linux {found['kernel']}, "
            f"{found['cpus']} virtual CPUs, {found['measured_at'][:10]}",
            fontsize=9, x=0.01, ha="left",
        )  # fmt: skip
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def _scale(axes: Axes, most: float) -> None:
    """From just below 1 on, logarithmic, with room for the labels."""
    axes.set_xscale("log")
    axes.set_xlim(0.93 if most < 20 else 0.7, max(most, 1.25) ** 1.35)
    ticks = [1, 1.2, 1.5, 2, 3] if most < 3 else [1, 2, 5, 10, 20] if most < 25 else [1, 10, 100, 1000]
    axes.set_xticks([tick for tick in ticks if tick <= most**1.35])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()
    axes.axvline(1, color=INK, linewidth=0.8)
    axes.grid(axis="x", color="#e4e7eb", linewidth=0.6)


def _label(axes: Axes, x: float, row: int, text: str, ours: bool) -> None:
    axes.annotate(
        text, (x, row), xytext=(6, 0), textcoords="offset points", va="center", fontsize=8.5,
        color=OURS if ours else INK, fontweight="bold" if ours else "normal",
    )  # fmt: skip
