"""What a guest found, as ``results.json`` keeps it: by kernel and row, with the reasons for each *no*."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from .packages import numbers
from .rows import ROWS, row_of

PATH = Path(__file__).parent / "results.json"
SCHEMA = "whyidle.kernels/1"


def outcome(out: Path) -> dict[str, Any]:
    """Of the files that a guest wrote into ``out``. Raises OSError or ValueError if one is not whole."""
    doctor = json.loads((out / "doctor.json").read_text())
    checks = {check["name"]: check for check in doctor["checks"]}
    rows: dict[str, dict[str, Any]] = {row.name: {"passed": 0, "failed": [], "lacks": []} for row in ROWS}
    for case in ET.parse(out / "tests.xml").getroot().iter("testcase"):
        test = f"{case.get('file')}::{case.get('name')}"
        name = row_of(test)
        if name is None:
            raise ValueError(f"{test} belongs to no row")
        row, skipped = rows[name], case.find("skipped")
        if skipped is not None:
            reason = skipped.get("message", "")
            if reason not in row["lacks"]:
                row["lacks"].append(reason)
        elif case.find("failure") is not None or case.find("error") is not None:
            row["failed"].append(test)
        else:
            row["passed"] += 1
    return {
        "can_run": doctor["can_run"],
        "probes": {key: checks["probes"][key] for key in ("status", "detail", "fix")},
        "uprobes": checks["uprobes"]["detail"],
        "rows": {name: row for name, row in rows.items() if any(row.values())},
    }


def series(release: str) -> str:
    """``6.12`` of ``6.12.117+deb13-amd64``."""
    return ".".join(re.split(r"[.+-]", release)[:2])


def merged(known: list[dict[str, Any]], found: dict[str, Any]) -> list[dict[str, Any]]:
    """All kernels, oldest first, with what was found in place of what was known of the same series."""
    kept = [kernel for kernel in known if series(kernel["release"]) != series(found["release"])]
    return sorted([*kept, found], key=lambda kernel: numbers(kernel["release"]))


def load() -> dict[str, Any]:
    """The committed results."""
    found: dict[str, Any] = json.loads(PATH.read_text())
    return found


def save(results: dict[str, Any]) -> None:
    """Replace the committed results."""
    PATH.write_text(json.dumps(results, indent=1) + "\n")
