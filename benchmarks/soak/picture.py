"""The samples of a soak as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl

from benchmarks.soak.sampling import Sample
from benchmarks.soak.verdict import after_warm_up, slope_of

mpl.use("agg")
from matplotlib import pyplot as plt

CPU_OVER_S = 10


def draw(samples: Sequence[Sample], path: Path, title: str) -> None:
    """Write a PNG: what must not grow, and what was going on meanwhile, over the same minutes."""
    minutes = [sample.seconds / 60 for sample in samples]
    begin = after_warm_up(samples)[0].seconds / 60
    figure, axes = plt.subplots(5, 1, sharex=True, figsize=(10, 12), constrained_layout=True)
    memory, descriptors, objects, cpu, load = axes
    figure.suptitle(title)

    memory.plot(minutes, [sample.rss_bytes / 1e6 for sample in samples], color="C0", label="RSS")
    anonymous = [sample.anonymous_bytes / 1e6 for sample in samples]
    memory.plot(minutes, anonymous, color="C9", label="of it what no file backs")
    slope = slope_of(samples, lambda sample: sample.rss_bytes)
    if slope is not None:
        used = after_warm_up(samples)
        level = sorted(sample.rss_bytes for sample in used)[len(used) // 2]
        middle = (used[0].seconds + used[-1].seconds) / 2
        ends = (used[0].seconds, used[-1].seconds)
        line = [(level + slope.slope * (end - middle)) / 1e6 for end in ends]
        label = f"trend {3600 * slope.slope / level:+.2%} per hour"
        memory.plot([end / 60 for end in ends], line, color="C3", linestyle="--", label=label)
    memory.set_ylabel("MB")

    descriptors.plot(minutes, [sample.descriptors for sample in samples], color="C1", label="descriptors")
    descriptors.plot(minutes, [sample.threads for sample in samples], color="C4", label="threads")
    objects.plot(minutes, [sample.map_entries for sample in samples], color="C2", label="entries of maps")
    objects.plot(minutes, [sample.bpf_programs for sample in samples], color="C5", label="programs")
    objects.plot(minutes, [sample.bpf_maps for sample in samples], color="C6", label="maps")
    objects.set_ylabel("BPF objects")

    shares = [
        100 * (b.cpu_s - a.cpu_s) / (b.seconds - a.seconds)
        for a, b in pairwise(samples[:: max(1, round(CPU_OVER_S * len(samples) / samples[-1].seconds))])
        if b.seconds > a.seconds
    ]
    times = [minutes[0] + (minutes[-1] - minutes[0]) * (n + 0.5) / len(shares) for n in range(len(shares))]
    cpu.plot(times, shares, color="C0", label="CPU")
    cpu.set_ylabel("% of a core")

    load.plot(minutes, [sample.observations for sample in samples], color="C0", label="observations")
    load.plot(minutes, [sample.clients for sample in samples], color="C1", label="clients", alpha=0.6)
    lost = load.twinx()
    lost.plot(minutes, [sample.lost for sample in samples], color="C3", label="lost")
    lost.set_ylabel("records lost")
    lost.set_ylim(0, max(1.0, 1.1 * samples[-1].lost))
    load.legend(loc="upper left")
    lost.legend(loc="upper right")
    load.set_xlabel("minutes")

    for axis in axes:
        axis.axvspan(0, begin, color="0.92", zorder=0)
        axis.grid(alpha=0.3)
        if axis is not load:
            axis.set_ylim(0, 1.15 * axis.get_ylim()[1])
            axis.legend(loc="lower right")
    figure.savefig(path, dpi=100)
    plt.close(figure)
