"""``python -m benchmarks [NAME...]``: run, print, and put the tables into README.md."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from datetime import UTC, datetime

from benchmarks import (
    blame,
    cuda,
    demo,
    experiments,
    gpus,
    readme,
    scale,
    service,
    startup,
    switches,
    syscalls,
)
from benchmarks.measure import OUT, Row, say

ALL = {
    "syscalls": syscalls.run,
    "switches": switches.run,
    "startup": startup.run,
    "cuda": cuda.run,
    "demo": demo.run,
    "experiments": experiments.run,
    "blame": blame.run,
    "scale": scale.run,
    "gpus": gpus.run,
    "service": service.run,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=sys.modules["benchmarks"].__doc__
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ALL)} (default: all)")
    names = parser.parse_args().names or list(ALL)
    if unknown := set(names) - set(ALL):
        parser.error(f"no benchmark named {', '.join(sorted(unknown))}; there are {', '.join(ALL)}")
    if os.geteuid() != 0:
        say("benchmarks: kernel probes need root\n  run it with sudo")
        return 3
    OUT.mkdir(parents=True, exist_ok=True)
    sections = []
    for name in names:
        say(f"==> {name}")
        sections.append(ALL[name]())
    text = "\n\n".join(_table(title, rows) for title, rows in sections)
    when = datetime.now(UTC).strftime("%Y-%m-%d")
    text += (
        f"\n\nMeasured {when} on Linux {platform.release()}, {os.cpu_count()} virtual CPUs, by `make bench`."
    )
    print(text)
    if names == list(ALL):
        readme.replace("benchmarks", text)
    return 0


def _table(title: str, rows: list[Row]) -> str:
    lines = [f"**{title}**", "", "| what | measured | goal | |", "|---|---|---|---|"]
    return "\n".join(lines + [f"| {row.what} | {row.value} | {row.goal} | {row.verdict} |" for row in rows])


if __name__ == "__main__":
    sys.exit(main())
