"""What is remembered, by which policy, and what a summary keeps: pure, whatever the history."""

import json
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from whyidle_agent.history import History
from whyidle_agent.memory.interaction import MAX_LINE_BYTES, Interaction, interactions, read_from
from whyidle_agent.memory.summary import Summary, line_of
from whyidle_agent.memory.window import Window

TEXTS = st.lists(st.text("abc ", max_size=4), max_size=60)


@given(TEXTS, st.integers(1, 8))
def test_a_window_holds_the_last_n_contents(texts: list[str], size: int) -> None:
    """Never more than N, each content once, and exactly those that came up last, in that order."""
    window = Window(size)
    for step, text in enumerate(texts):
        window.add(Interaction(step, "result", text))
        assert len(window) <= size
    last: dict[bytes, int] = {}
    for step, text in enumerate(texts):
        digest = Interaction(step, "result", text).digest
        last.pop(digest, None)
        last[digest] = step
    assert [one.step for one in window] == list(last.values())[-size:]


@given(TEXTS)
def test_nothing_is_lost_from_the_windows_count(texts: list[str]) -> None:
    """What came in is kept, was merged, or was dropped."""
    window = Window(5)
    for step, text in enumerate(texts):
        window.add(Interaction(step, "call", text))
    assert len(window) + window.merged + window.dropped == len(texts)


def test_the_same_words_are_the_same_content() -> None:
    """Case and spacing make no other content; another word does."""
    one = Interaction(1, "result", "GPU  idle\n")
    assert one.digest == Interaction(9, "call", "gpu idle").digest
    assert one.digest != Interaction(1, "result", "gpu idles").digest


@given(st.lists(st.text(st.characters(codec="ascii"), max_size=30), max_size=40), st.integers(8, 120))
def test_a_summary_keeps_its_budget(lines: list[str], budget: int) -> None:
    """However many steps left the prompt, and whatever they were about."""
    summary = Summary(budget, len)
    for line in lines:
        summary.add([line])
        assert len(summary.text()) <= budget


def test_a_summary_counts_what_comes_up_again_and_forgets_the_oldest() -> None:
    """Repeated lines are one line; with no room, the line goes that is longest ago."""
    summary = Summary(39, len)
    summary.add(["one", "two", "one", "one"])
    assert summary.text() == "Earlier:\n- two\n- one (x3)\n"
    summary.add(["three three"])
    assert summary.text() == "Earlier:\n- one (x3)\n- three three\n"


@given(st.lists(st.text(max_size=60), max_size=40), st.integers(120, 400))
def test_a_prompt_with_a_summary_stays_within_its_budget(observations: list[str], budget: int) -> None:
    """The summary takes its part of the budget, and the prompt begins with the introduction all the same."""
    history = History("introduction\n", budget, len, Summary(60, len))
    for step, observation in enumerate(observations, start=1):
        history.add(step, "{}", observation, line_of("search_web", f"query {step}", observation))
        assert len(history.prompt()) == history.tokens() <= budget
        assert history.prompt().startswith("introduction\n")
        assert ("Earlier:" in history.prompt()) <= (history.dropped > 0)


def test_a_whole_history_is_never_cut() -> None:
    """Without a budget every step stays, which is how a context overflows."""
    history = History("intro\n", None, len)
    for step in range(200):
        history.add(step, "{}", "x" * 100)
    assert history.dropped == 0
    assert history.prompt().count("Result: ") == 200


@given(st.binary(max_size=300))
def test_any_bytes_are_a_history(data: bytes) -> None:
    """Whatever a history file holds is read without an error, and its complete lines are passed once."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "h"
        path.write_bytes(data)
        ends = [offset for offset, _ in read_from(path, 0)]
        assert len(ends) == data.count(b"\n")
        assert (ends[-1] if ends else 0) == data.rfind(b"\n") + 1
        if ends:
            assert [offset for offset, _ in read_from(path, ends[0])] == ends[1:]


def test_a_line_without_end_is_not_read_and_a_huge_one_is_passed_over(tmp_path: Path) -> None:
    """The last line of a run that was killed comes when it is complete; a megabyte is nobody's step."""
    path = tmp_path / "history.jsonl"
    good = json.dumps({"step": 1, "call": {"tool": "finish", "answer": "42"}, "observation": "done"})
    path.write_text("x" * (2 * MAX_LINE_BYTES + 7) + "\n" + good + "\n" + good[:20])
    found = [one for _, one in read_from(path, 0)]
    assert found[0] == ()
    assert [one.text for one in found[1]] == ["finish 42", "done"]
    assert len(found) == 2


def test_what_is_no_step_is_nothing() -> None:
    """Lines of other kinds (the head of a run) and of other programs are not remembered."""
    for record in (
        None,
        3,
        [],
        {},
        {"goal": "g"},
        {"step": True, "call": {}, "observation": ""},
        {"step": 1},
    ):
        assert interactions(record) == ()
