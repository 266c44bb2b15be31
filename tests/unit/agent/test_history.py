"""The history: the prompt's budget and the file."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whyidle_agent.errors import AgentError
from whyidle_agent.history import History, HistoryFile


@given(
    st.lists(st.tuples(st.text(max_size=60), st.lists(st.text(max_size=30), max_size=4)), max_size=40),
    st.integers(60, 400),
)
def test_the_prompt_stays_within_its_budget(steps: list[tuple[str, list[str]]], budget: int) -> None:
    """However long the run, the prompt begins with the introduction and fits, plans and all."""
    history = History("introduction\n", budget, len)
    for step, (observation, plan) in enumerate(steps, start=1):
        history.add(step, "{}", observation, plan=plan)
        assert len(history.prompt()) == history.tokens() <= budget
        assert history.prompt().startswith("introduction\n")


def test_the_oldest_go_first_and_several_at_once() -> None:
    """Between two cuts the prompt only grows at its end, so that the evaluated part stays valid."""
    history = History("intro\n", 200, len)
    prompts, cuts = [history.prompt()], 0
    for step in range(1, 41):
        dropped = history.dropped
        history.add(step, "{}", f"result {step:02}")
        if history.dropped == dropped:
            assert history.prompt().startswith(prompts[-1])
        else:
            assert history.dropped - dropped > 1
            cuts += 1
        prompts.append(history.prompt())
        assert f"result {step:02}" in prompts[-1]
    assert cuts > 1
    assert "result 01" not in prompts[-1]


def test_the_last_plan_stays() -> None:
    """A plan whose step left the prompt stands after the introduction until a later one has left as well."""
    history = History("intro\n", 200, len)
    history.add(1, "{}", "planned", plan=["search", "write"])
    for step in range(2, 12):
        history.add(step, "{}", f"result {step:02}")
        assert ("planned" in history.prompt()) == (history.dropped == 0)
    assert history.prompt().startswith("intro\nPlan:\n1. search\n2. write\n")
    history.add(12, "{}", "planned again", plan=["only write"])
    for step in range(13, 40):
        history.add(step, "{}", f"result {step:02}")
    assert history.prompt().startswith("intro\nPlan:\n1. only write\n{}")


def test_a_plan_takes_half_of_the_room_at_most() -> None:
    """Its first lines are kept; of a plan with no line that fits, none is."""
    for budget, kept in ((106, "Plan:\n1. search\n2. write\n"), (54, "Plan:\n1. search\n"), (36, "")):
        history = History("intro\n", budget, len)
        history.add(1, "{}", "planned", plan=["search", "write", "x" * 100])
        for step in range(2, 12):
            history.add(step, "{}", "result")
        assert history.prompt().partition("{}")[0] == f"intro\n{kept}"


def test_runs_are_appended(tmp_path: Path) -> None:
    """A second run adds to the history file, and each record is on disk as soon as it is appended."""
    for run in range(2):
        file = HistoryFile(tmp_path / "work")
        file.append({"goal": "g", "text": "line\nbreak", "run": run})
        lines = file.path.read_text().splitlines()
        assert [json.loads(line)["run"] for line in lines] == list(range(run + 1))
        file.close()


def test_a_linked_history_is_refused(tmp_path: Path) -> None:
    """A history file that is a symbolic link is one clear error, and its target is untouched."""
    (tmp_path / "secret").write_text("untouched")
    (tmp_path / "history.jsonl").symlink_to(tmp_path / "secret")
    with pytest.raises(AgentError, match="cannot write"):
        HistoryFile(tmp_path)
    assert (tmp_path / "secret").read_text() == "untouched"
