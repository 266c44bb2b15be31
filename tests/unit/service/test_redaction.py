"""A report for a user who may see his own processes only."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import report_schema

from whyidle_daemon.redaction import ADVICE, HIDDEN, redacted, redacted_finding

SAMPLE = Path(__file__).parents[1] / "cli" / "sample_report.json"
SECRET = "s3cret"
MINE, THEIRS = 1, 2


@pytest.fixture
def report() -> dict[str, Any]:
    """The sample, with everything of one process made secret, and things nobody has thought of yet."""
    found: dict[str, Any] = json.loads(SAMPLE.read_text())
    owner = found["processes"][0]["pid"]

    def rewrite(item: Any, theirs: bool) -> Any:
        if isinstance(item, dict):
            if isinstance(item.get("pid"), int):
                theirs = item["pid"] != owner
            return {
                key: (THEIRS if theirs else MINE) if key == "pid" else rewrite(value, theirs)
                for key, value in item.items()
            }
        if isinstance(item, list):
            return [rewrite(value, theirs) for value in item]
        return item

    found = rewrite(found, False)
    stranger = copy.deepcopy(found["processes"][0])
    found["processes"].append({**stranger, "pid": THEIRS, "command": SECRET, "cgroup": f"/{SECRET}"})
    found["threads"].append({**found["threads"][0], "pid": THEIRS, "name": SECRET, "later": SECRET})
    found["engines"].append({**found["engines"][0], "pid": THEIRS, "id": f"llama:{SECRET}", "path": SECRET})
    cause = {
        **found["idle_by_cause"][0],
        "pid": THEIRS,
        "tid": THEIRS,
        "function": SECRET,
        "peer": {"host": SECRET},
    }
    found["idle_by_cause"].append(cause)
    found["gaps"].append({**found["gaps"][0], "engine": f"llama:{SECRET}", "causes": [cause]})
    mine = {**found["findings"][0], "pid": MINE, "advice": f"wait for {SECRET}", "child": SECRET}
    mine["peer"] = {"host": SECRET, "address": "10.0.0.1", "port": 1}
    mine["neighbours"] = [{"pid": THEIRS, "command": SECRET}]
    found["findings"] = [mine, {**mine, "pid": THEIRS, "function": SECRET}]
    found["a_later_section"] = {"words": [SECRET]}
    return found


def test_nothing_of_others_is_in_it(report: dict[str, Any]) -> None:
    """Neither in a field of today, nor in one that a later version adds."""
    assert SECRET in json.dumps(report)
    mine = redacted(report, lambda pid: pid == MINE)
    assert SECRET not in json.dumps(mine)
    jsonschema.validate(mine, report_schema.schema())
    assert [finding["pid"] for finding in mine["findings"]] == [MINE]
    assert mine["findings"][0]["advice"] == ADVICE
    assert any(process["command"] == HIDDEN for process in mine["processes"])


def test_sums_stay(report: dict[str, Any]) -> None:
    """That others were there, and for how long, any process list says."""
    mine = redacted(report, lambda pid: pid == MINE)
    for part in ("threads", "engines", "idle_by_cause", "gaps", "processes"):
        assert len(mine[part]) == len(report[part])
    assert [t["states"] for t in mine["threads"]] == [t["states"] for t in report["threads"]]
    assert [c["seconds"] for c in mine["idle_by_cause"]] == [c["seconds"] for c in report["idle_by_cause"]]


def test_a_tree_wholly_his_is_shown_as_it_is(report: dict[str, Any]) -> None:
    """Nothing is kept from whoever owns all of it."""
    assert redacted(report, lambda pid: True) == report


def test_a_finding_streamed_from_a_mixed_tree(report: dict[str, Any]) -> None:
    """The same holds for what a subscriber gets."""
    assert SECRET not in json.dumps(redacted_finding(report["findings"][0]))
