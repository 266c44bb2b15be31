"""Puts measured text between markers of README.md, so that nothing there is typed by hand."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.measure import ROOT


def replace(section: str, text: str, path: Path = ROOT / "README.md") -> None:
    """Replace what stands between ``<!-- section: begin -->`` and ``<!-- section: end -->``."""
    begin, end = f"<!-- {section}: begin -->", f"<!-- {section}: end -->"
    old = path.read_text()
    head, rest = old.split(begin, 1)
    path.write_text(f"{head}{begin}\n{text}\n{end}{rest.split(end, 1)[1]}")


if __name__ == "__main__":  # whyidle report on standard input
    replace("report", "```\n" + sys.stdin.read().strip("\n") + "\n```")
