"""``python -m tests.kernels [--only RELEASE] [--rows NAME,NAME]``: run, print, write README.md's table."""

from __future__ import annotations

import argparse
import datetime
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from . import initramfs, machine, results, table
from .packages import LEAST, Apt, Package, choose
from .rows import ROWS, chosen

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "out" / "kernels"
LIMIT_S = 1800.0
TRIES = 3


def main() -> int:
    """0 when at least four kernels ran and no row of any failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.kernels", description=__doc__)
    parser.add_argument(
        "--only", default="", help="kernels whose release begins so; the others keep their results"
    )
    parser.add_argument("--rows", default="", help="only these rows; writes no results")
    options = parser.parse_args()
    rows = [name for name in options.rows.split(",") if name]
    if unknown := set(rows) - {row.name for row in ROWS}:
        there = ", ".join(row.name for row in ROWS)
        parser.error(f"no row {', '.join(sorted(unknown))}; there are {there}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # through what stops the virtual machine
    if os.geteuid() != 0:
        print("kernels: needs root, to share this host's files with the guests", file=sys.stderr)
        return 3
    cache = Path(os.environ.get("WHYIDLE_CACHE") or Path.home() / ".cache/whyidle").resolve() / "kernels"
    cache.mkdir(parents=True, exist_ok=True)
    apt = Apt(cache / "apt")
    try:
        apt.update()
        kernels = [p for p in choose(apt.kernels(), print) if p.release.startswith(options.only)]
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        print(f"kernels: apt: {(error.stderr or str(error)).strip().splitlines()[-1]}", file=sys.stderr)
        return 1
    print(f"{len(kernels)} kernels, at most {LIMIT_S / 60:.0f} minutes each; logs in {OUT}")
    known: list[dict[str, Any]] = []
    good = True
    for kernel in kernels:
        found = _one(apt, kernel, cache, rows)
        good = found is not None and _say(found) and good
        if found is None or rows:
            continue
        if options.only and results.PATH.exists():
            known = results.load()["kernels"]
        known = results.merged(known, found)
        whole = {"schema": results.SCHEMA, "command": "make kernels", "kernels": known}
        results.save(whole)  # at once: what has run is not lost when the next is interrupted
        if len(known) >= LEAST:
            table.write(table.table(whole))
    if not rows and len(known) < LEAST:
        print(
            f"kernels: {len(known)} have results, {LEAST} are wanted: the table stays as it is",
            file=sys.stderr,
        )
        return 1
    return 0 if good else 1


def _one(apt: Apt, kernel: Package, cache: Path, rows: list[str]) -> dict[str, Any] | None:
    """Run one kernel; ``None``, with the reason printed, when it gave no result."""
    image, started_by = _prepared(apt, kernel, cache)
    out = OUT / kernel.release
    for left in reversed(range(TRIES)):
        status, took = _tried(kernel, image, started_by, out, rows)
        if status is not None or not left or not machine.emulator_failed(out):
            break
        print("  the emulator ran code that the guest's kernel had replaced: once more", flush=True)
    if status != 0:
        why = "no result in time, or no boot" if status is None else f"the guest's exit status is {status}"
        print(f"  {why}: {out}/console, {out}/guest.log")
        return None
    return {
        "release": kernel.release,
        "version": kernel.version,
        "suite": kernel.suite,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "seconds": round(took),
        **results.outcome(out),
    }


def _tried(
    kernel: Package, image: Path, started_by: Path, out: Path, rows: list[str]
) -> tuple[int | None, float]:
    """The guest's exit status, and how many seconds it took."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    took = 0.0

    def tick(seconds: float) -> None:
        nonlocal took
        took = seconds
        line = f"{kernel.release:<24} {seconds:5.0f} s  {_progress(out):<60.60}"
        if sys.stdout.isatty():
            print(f"\r{line}", end="", flush=True)
        elif int(seconds) % 60 == 0:
            print(line, flush=True)

    status = machine.run(image, started_by, out, chosen(rows), LIMIT_S, tick)
    over = "\r" if sys.stdout.isatty() else ""
    print(
        f"{over}{kernel.release:<24} {took:5.0f} s  {'done' if status == 0 else 'no result':<60}", flush=True
    )
    return status, took


def _prepared(apt: Apt, kernel: Package, cache: Path) -> tuple[Path, Path]:
    """The kernel and its initramfs, kept between runs."""
    kept = cache / f"{kernel.name}-{initramfs.digest()}"
    if not (kept / "initramfs").exists():
        print(f"{kernel.release:<24} fetching {kernel.name} {kernel.version}", flush=True)
        scratch = cache / "unpacked"
        shutil.rmtree(scratch, ignore_errors=True)
        apt.unpack(kernel, scratch)
        kept.mkdir(exist_ok=True)
        shutil.copy(next(p for p in scratch.rglob("vmlinuz*") if p.is_file()), kept / "vmlinuz")
        initramfs.build(scratch, kernel.release, kept / "initramfs")
        shutil.rmtree(scratch)
    return kept / "vmlinuz", kept / "initramfs"


def _progress(out: Path) -> str:
    """The last line of the guest: which test it is at."""
    try:
        last = (out / "guest.log").read_text(errors="replace").strip().splitlines()[-1]
    except (OSError, IndexError):
        return "boots"
    return "".join(ch for ch in last.removeprefix("tests/integration/") if ch.isprintable())


def _say(one: dict[str, Any]) -> bool:
    """Print what failed; whether nothing did."""
    failed = [test for row in one["rows"].values() for test in row["failed"]]
    for test in failed:
        print(f"  {one['release']}: failed: {test}")
    return not failed


if __name__ == "__main__":
    sys.exit(main())
