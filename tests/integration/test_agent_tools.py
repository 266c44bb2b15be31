"""The article's agent before and after its fix, observed: what is found, what is predicted, what comes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness_cli import BIN, SearchServer, load, whyidle

pytestmark = [pytest.mark.bpf, pytest.mark.model]
pytest.importorskip("llama_cpp", reason="the reference agent needs llama-cpp-python", exc_type=ImportError)

LATENCY_S = 0.25


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The report of the same task with its searches one after another, and together."""
    found = {}
    for tools in ("sync", "async"):
        folder: Path = tmp_path_factory.mktemp(tools)
        with SearchServer(folder, LATENCY_S) as server:
            done = whyidle(
                *("run", "--json", folder / "report.json", "--", BIN / "whyidle-agent", "run", "--seed", "1"),
                *("--search-url", server.url, "--tools", tools, "--loops", "5", "--queries", "6"),
                *("--tokens", "700", "--workdir", folder / "work", "--stats", folder / "stats.json"),
            )
            assert done.returncode == 0, done.stderr
        found[tools] = {**load(folder / "report.json"), "stats": load(folder / "stats.json")}
    return found


def test_the_unfixed_run_is_blamed_on_the_search(reports: dict[str, dict[str, Any]]) -> None:
    """A blocking call and calls in sequence, both of `search_web`, and nobody else's."""
    found = {f["kind"]: f["function"] for f in reports["sync"]["findings"]}
    assert found["blocking_network_call"] == found["sequential_calls"] == "search_web"
    network = [f for f in reports["sync"]["findings"] if f["kind"] == "blocking_network_call"]
    assert [f["function"] for f in network] == ["search_web"]


def test_the_fixed_run_is_blamed_for_neither(reports: dict[str, dict[str, Any]]) -> None:
    """Issued together under one loop, the same searches are no finding of these kinds, nor a blocked loop."""
    kinds = {f["kind"] for f in reports["async"]["findings"]}
    assert not kinds & {"blocking_network_call", "sequential_calls", "event_loop_blocked"}
    assert reports["async"]["what_if"] == []


def test_both_did_the_same_work(reports: dict[str, dict[str, Any]]) -> None:
    """The same tokens and the same searches, else there is nothing to compare."""
    sync, together = reports["sync"]["stats"], reports["async"]["stats"]
    for key in ("tokens", "steps", "outcome", "decode_calls"):
        assert sync[key] == together[key]
    assert sorted(call["tool"] for call in sync["tool_calls"]) == sorted(
        call["tool"] for call in together["tool_calls"]
    )


def test_what_waiting_remains_is_predicted(reports: dict[str, dict[str, Any]]) -> None:
    """Every search is in the prediction; of a step no more remains than its longest, by the agent's clock."""
    (predicted,) = reports["sync"]["what_if"]
    assert predicted["functions"] == ["search_web"]
    searches = [call for call in reports["sync"]["stats"]["tool_calls"] if call["tool"] == "search_web"]
    steps = {call["step"] for call in searches}
    assert (predicted["runs"], predicted["calls"]) == (len(steps), len(searches))
    longest = sum(max(c["duration_s"] for c in searches if c["step"] == step) for step in steps)
    assert 0 < predicted["remains_s"]["calls"] <= longest
    assert predicted["saves_s"] <= sum(call["duration_s"] for call in searches) - len(steps) * LATENCY_S
