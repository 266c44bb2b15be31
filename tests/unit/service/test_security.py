"""SECURITY.md promises what tests try to break."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_every_threat_has_a_test_that_exists() -> None:
    """Each line of the table names at least one, and none that is gone."""
    text = (ROOT / "SECURITY.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| somebody")]
    assert len(rows) >= 20
    sources = {path.name: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    for row in rows:
        named = re.findall(r"`(test_\w+(?:\.py)?)`", row.split("|")[3])
        assert named, row
        for name in named:
            known = name in sources or any(f"def {name}(" in source for source in sources.values())
            assert known, f"{name}: {row}"
