"""Runs a soak: ``python -m benchmarks.soak [--minutes M]``; exit status 0: nothing grew, 1: something may."""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import NamedTuple

from benchmarks import results
from benchmarks.measure import OUT, Row, say
from benchmarks.service import Service
from benchmarks.soak.load import RESIDENTS, Load
from benchmarks.soak.sampling import Sample, Sampler
from benchmarks.soak.verdict import Judgement, judge, passed

EVERY_S = 1.0
LOG = "daemon.log"
PARTS = 40  # of the history in one run, so that many are begun and ended
MIN_PART_MINUTES, MAX_PART_MINUTES = 0.01, 10.0  # less the daemon refuses


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=_minutes, default=60.0, metavar="M", help="how long (default: 60)")
    parser.add_argument(
        "--out", type=Path, default=OUT.parent / "soak", metavar="DIR", help="for the results"
    )
    parser.add_argument("--keep", action="store_true", help="put verdict and picture into RESULTS.md")
    options = parser.parse_args(arguments)
    if os.geteuid() != 0:
        say("soak: kernel probes need root\n  run it with sudo")
        return 3
    options.out.mkdir(parents=True, exist_ok=True)
    run = soak(options.minutes * 60, options.out / "soak.csv")
    if not run.samples:
        say(f"soak: {run.ended}\n  its log is {options.out / LOG}")
        return 1
    said = (options.out / LOG).read_bytes()
    judgements = judge(run.samples, os.cpu_count() or 1, said.count(b"ERROR") + said.count(b"CRITICAL"))
    text = verdict_text(judgements, options.minutes, run)
    title = text.splitlines()[0]
    (options.out / "verdict.txt").write_text(text)
    from benchmarks.soak.picture import draw  # noqa: PLC0415 (matplotlib, once there is something to draw)

    draw(run.samples, options.out / "soak.png", title)
    print(text)
    if options.keep:
        keep(title, judgements, run, options.out / "soak.png")
    return 0 if passed(judgements) and not run.ended else 1


def _minutes(text: str) -> float:
    value = float(text)
    if not 0.2 <= value <= 7 * 24 * 60:
        raise argparse.ArgumentTypeError("must be between 0.2 and 10080 minutes")
    return value


class Run(NamedTuple):
    """A soak: a sample a second, what the load did, and why it ended before its time, if it did."""

    samples: list[Sample]
    done: dict[str, int]
    ended: str


def soak(seconds: float, path: Path) -> Run:
    """Load a daemon for some time; the samples are also written to ``path``, as they come.

    Raises TimeoutError when the daemon did not start.
    """
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), _free_port()
        more = f'[metrics]\nlisten = "127.0.0.1:{port}"\n[history]\n'
        part_minutes = min(MAX_PART_MINUTES, max(MIN_PART_MINUTES, seconds / 60 / PARTS))
        more += f"part_minutes = {part_minutes:.4f}\n"
        with path.with_name(LOG).open("wb") as log:
            service = Service(folder, more, log.fileno())
        try:
            with Load(folder, service.process.pid, service.socket, port) as load:
                service.wait_for(RESIDENTS)
                samples, ended = _watch(service, load, seconds, path)
                return Run(samples, dict(load.done), ended)
        finally:
            service.end()


def _watch(service: Service, load: Load, seconds: float, path: Path) -> tuple[list[Sample], str]:
    """The samples until the end, or until something breaks: an hour's are not thrown away for that."""
    sampler = Sampler(service.process.pid, service.socket)
    samples: list[Sample] = []
    began = time.monotonic()
    try:
        with path.open("w", newline="", buffering=1) as file:
            table = csv.DictWriter(file, [field.name for field in fields(Sample)])
            table.writeheader()
            while (now := time.monotonic() - began) < seconds:
                if service.process.poll() is not None:
                    return samples, "the daemon is gone"
                if load.error is not None:
                    return samples, f"the load broke: {load.error}"
                samples.append(sampler.sample(round(now, 3)))
                table.writerow(asdict(samples[-1]))
                time.sleep(max(0.0, EVERY_S - (time.monotonic() - began - now)))
    except KeyboardInterrupt:
        return samples, "interrupted"
    finally:
        sampler.close()
    return samples, ""


def verdict_text(judgements: Sequence[Judgement], minutes: float, run: Run) -> str:
    """A title, a line for each judgement, and what the load was."""
    word = "passed" if passed(judgements) else "not passed"
    if run.ended:
        word = f"ended after {run.samples[-1].seconds / 60:.1f}: {run.ended}"
    lines = [f"whyidle soak, {minutes:g} minutes: {word}", ""]
    for judgement in judgements:
        goal = f" (goal: {judgement.goal}): {judgement.verdict}" if judgement.goal else ""
        lines.append(f"  {judgement.what:38} {judgement.found}{goal}")
    lines += ["", f"  the load: {_load_of(run)}"]
    return "\n".join(lines)


def _load_of(run: Run) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(run.done.items()))


def keep(title: str, judgements: Sequence[Judgement], run: Run, picture: Path) -> None:
    """Put a verdict into benchmarks/RESULTS.md: its title, its lines and its picture."""
    from benchmarks.__main__ import write_tables  # noqa: PLC0415 (every benchmark)

    rows = [Row(each.what, each.found, each.goal, each.verdict) for each in judgements]
    rows.append(Row("the load", _load_of(run), "", ""))
    results.store("soak", title, rows)
    shutil.copyfile(picture, results.picture("soak"))
    write_tables()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
