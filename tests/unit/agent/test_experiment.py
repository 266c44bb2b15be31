"""The experiment's arithmetic, on accounts whose answer is known."""

from typing import Any

import pytest

from whyidle_agent.errors import AgentError
from whyidle_agent.experiment import compare, measured


def run(wall_s: float, busy_s: float, *kinds: str) -> tuple[dict[str, Any], dict[str, Any]]:
    engine = {"busy_s": busy_s, "idle_s": wall_s - busy_s}
    report = {
        "target": {"duration_s": wall_s + 0.25},
        "engines": [engine],
        "findings": [{"kind": kind} for kind in kinds],
    }
    return {"wall_s": wall_s, "decode_s": busy_s}, report


def test_what_two_runs_come_to() -> None:
    """Time saved and utilisation come from the runs' own figures, findings are passed on as they are."""
    sync = measured(*run(8.0, 2.0, "blocking_network_call", "sequential_calls"))
    together = measured(*run(2.5, 2.0))
    result = compare(sync, together)
    assert result["saved"] == pytest.approx(1 - 2.5 / 8)
    assert result["sync"]["utilisation"] == pytest.approx(result["sync"]["own_utilisation"]) == 0.25
    assert result["async"]["utilisation"] == pytest.approx(0.8)
    assert result["sync"]["findings"] == ["blocking_network_call", "sequential_calls"]
    assert result["async"]["findings"] == []


def test_an_account_without_its_fields_is_one_clear_error() -> None:
    """A report that lacks what the experiment reads ends it with a reason."""
    stats, report = run(1.0, 0.5)
    del report["target"]
    with pytest.raises(AgentError, match="target"):
        measured(stats, report)
