"""``python -m tests.corpus [--verbose] [NAME ...]``: precision, recall and the error of the seconds."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests")]

from .compare import Verdict  # noqa: E402 (the harness is found through sys.path)
from .expect import programs  # noqa: E402
from .runner import bench, run  # noqa: E402
from .table import print_verdict, summary, write_json  # noqa: E402


def main() -> int:
    """Run; 0 when every goal is met."""
    parser = argparse.ArgumentParser(prog="python -m tests.corpus", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="programs (default: all)")
    parser.add_argument("--keep", type=Path, help="a new folder for reports, truths and logs")
    options = parser.parse_args()
    known = {program.name for program in programs()}
    if unknown := [name for name in options.names if name not in known]:
        parser.error(f"no such program: {', '.join(unknown)} (they are the files of tests/corpus/programs)")
    with tempfile.TemporaryDirectory(prefix="whyidle-corpus-") as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=bool(not options.keep))
        verdicts: list[Verdict] = []
        with bench(folder.resolve()) as shared:
            chosen = programs(options.names)
            for number, program in enumerate(chosen, 1):
                print(f"{number:3}/{len(chosen)} {program.name:<24}", end="", flush=True)
                verdicts.append(run(shared, program))
                print_verdict(verdicts[-1])
    good = summary(verdicts)
    if not options.names:
        write_json(ROOT / "out" / "accuracy.json", verdicts)
    return 0 if good else 1


sys.exit(main())
