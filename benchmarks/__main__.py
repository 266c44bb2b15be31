"""``python -m benchmarks [NAME...]``: run, print, and put the tables into RESULTS.md and README.md."""

from __future__ import annotations

import argparse
import os
import sys

from benchmarks import (
    accuracy,
    agent_memory,
    blame,
    cuda,
    decodes,
    demo,
    experiments,
    gpus,
    loops,
    readme,
    results,
    scale,
    service,
    stacks,
    stalls,
    startup,
    switches,
    syscalls,
    tracefs,
)
from benchmarks.measure import OUT, say

ALL = {
    "accuracy": accuracy.run,
    "syscalls": syscalls.run,
    "switches": switches.run,
    "startup": startup.run,
    "cuda": cuda.run,
    "decodes": decodes.run,
    "demo": demo.run,
    "experiments": experiments.run,
    "blame": blame.run,
    "stacks": stacks.run,
    "loops": loops.run,
    "stalls": stalls.run,
    "scale": scale.run,
    "gpus": gpus.run,
    "service": service.run,
    "agent-memory": agent_memory.run,
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
    tracefs.mount_privately()  # for the peers
    OUT.mkdir(parents=True, exist_ok=True)
    for name in names:
        say(f"==> {name}")
        print(results.table(name, results.store(name, *ALL[name]())), flush=True)
        write_tables()
    return 0


def write_tables() -> None:
    """Bring RESULTS.md and README.md up to what is kept."""
    found = results.load()
    results.PAGE.write_text(results.page(found, list(ALL)))
    readme.replace("benchmarks", results.headlines(found))


if __name__ == "__main__":
    sys.exit(main())
