"""The experiment's arithmetic, on accounts whose answer is known."""

import copy
import os
from pathlib import Path
from typing import Any

import pytest

from whyidle_agent.errors import AgentError
from whyidle_agent.experiment import compare, measured, show
from whyidle_agent.priority import undisturbed


def run(wall_s: float, busy_s: float, *kinds: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Account and report of a run that began to load its model after a tenth of a second."""
    report = {
        "target": {"duration_s": wall_s},
        "engines": [{"busy_s": busy_s, "idle_s": wall_s - 0.1 - busy_s, "drivers": [7]}],
        "threads": [
            {"tid": 7, "states": {"running": busy_s, "runqueue": 0.25}},
            {"tid": 8, "states": {"runqueue": 9.0}},
        ],
        "findings": [{"kind": kind, "function": "search_web"} for kind in kinds],
        "what_if": [],
    }
    return {"started": 50.0, "engine_since": 50.1, "wall_s": wall_s, "decode_s": busy_s}, report


PREDICTION = {
    "fix": "sequential_calls",
    "predicted_wall_s": 2.0,
    "predicted_wall_low_s": None,
    "predicted_wall_high_s": None,
    "engines": [{"id": "llama", "predicted_utilization": 0.75}],
}


def test_what_two_runs_come_to() -> None:
    """Time saved and utilisation come from the runs' own figures, findings are passed on as they are."""
    sync = measured(*run(8.1, 2.0, "blocking_network_call", "sequential_calls"))
    together = measured(*run(2.6, 2.0))
    result = compare(sync, together)
    assert result["saved"] == pytest.approx(1 - 2.6 / 8.1)
    assert result["sync"]["utilisation"] == pytest.approx(0.25)
    assert result["sync"]["own_utilisation"] == pytest.approx(0.25)
    assert result["sync"]["runqueue_s"] == pytest.approx(0.25)
    assert result["async"]["utilisation"] == pytest.approx(0.8)
    assert result["sync"]["findings"] == ["blocking_network_call", "sequential_calls"]
    assert result["sync"]["functions"]["sequential_calls"] == ["search_web"]
    assert result["async"]["findings"] == []
    assert result["predicted"] is None


def test_the_prediction_is_held_against_what_came() -> None:
    """The errors are relative to the run after the fix, by whyidle's clock."""
    stats, report = run(8.1, 2.0, "sequential_calls")
    sync, together = measured(stats, {**report, "what_if": [PREDICTION]}), measured(*run(2.5, 1.92))
    predicted = compare(sync, together)["predicted"]
    assert predicted["wall_error"] == pytest.approx(2.0 / 2.5 - 1)
    assert predicted["utilisation_error"] == pytest.approx(0.75 / 0.8 - 1)


def test_a_busy_machine_is_said_to_be_one() -> None:
    """Time that the model waited for a CPU makes the two runs unlike; the reader is told."""
    lines: list[Any] = []
    slow, report = run(8.1, 2.0)
    show(compare(measured(slow, report), measured(slow, report)), lines.append)
    assert "was busy with something else" in lines[-1]
    quiet = copy.deepcopy(report)
    quiet["threads"][0]["states"]["runqueue"] = 0.01
    show(compare(measured(slow, quiet), measured(slow, quiet)), lines.append)
    assert lines[-1] == "findings after: none"


def test_an_account_without_its_fields_is_one_clear_error() -> None:
    """A report that lacks what the experiment reads ends it with a reason."""
    stats, report = run(1.0, 0.5)
    del report["target"]
    with pytest.raises(AgentError, match="target"):
        measured(stats, report)


@pytest.mark.parametrize(
    ("text", "then"),
    [("/autogroup-7 nice 3\n", "3"), ("", ""), ("/autogroup-7 nice x", "/autogroup-7 nice x")],
)
def test_priority_is_given_back(tmp_path: Path, text: str, then: str) -> None:
    """Whatever the kernel's files say, process and session have their own priority again afterwards."""
    before, group = os.getpriority(os.PRIO_PROCESS, 0), tmp_path / "autogroup"
    group.write_text(text)
    with undisturbed(group):
        assert os.getpriority(os.PRIO_PROCESS, 0) == (-20 if os.geteuid() == 0 else before)
    assert os.getpriority(os.PRIO_PROCESS, 0) == before
    assert group.read_text() == then
