"""The loop, with a scripted model."""

import io
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from agent_fakes import ScriptedBrain
from memory_fakes import Letters, write

from whyidle_agent import toolbox
from whyidle_agent.async_web import AsyncWeb
from whyidle_agent.brain import Answer
from whyidle_agent.calls import Finish
from whyidle_agent.console import Console
from whyidle_agent.errors import AgentError
from whyidle_agent.files import work_folder
from whyidle_agent.grammar import Characters
from whyidle_agent.history import HistoryFile
from whyidle_agent.loop import Agent, Task, schedule
from whyidle_agent.memory.policies import Managed, Memory, Unbounded
from whyidle_agent.memory.store import VectorStore
from whyidle_agent.memory.window import Limits
from whyidle_agent.resuming import unfinished
from whyidle_agent.slow_search import Behaviour, SearchServer
from whyidle_agent.stats import MAX_CALLS, Stats
from whyidle_agent.text import encodable
from whyidle_agent.toolbox import Toolbox
from whyidle_agent.tools import Observation

SEARCH = {"tool": "search_web", "thought": "look", "queries": ["gpu idle", "nothing here"]}
WRITE = {"tool": "write_file", "thought": "note", "name": "a.txt", "text": "body"}
FINISH = {"tool": "finish", "thought": "done", "answer": "42"}
WRITES = [{**WRITE, "text": f"bod{number % 8}"} for number in range(40)]  # none of them a call made lately


def run(
    brain: ScriptedBrain,
    folder: Path,
    url: str = "http://127.0.0.1:9",
    memory: Memory | None = None,
    together: bool = False,
    stats: Stats | None = None,
    **changes: Any,
) -> tuple[Stats, str]:
    """Run the agent to its end, after what a run before did; gives its account and what it printed."""
    task = Task("the goal", 6, tokens=512, context=4096, scheduled=False, style=Characters())
    task = replace(task, **changes)
    stats, out = stats or Stats(), io.StringIO()
    history = HistoryFile(folder)
    try:
        with ExitStack() as stack:
            opened = stack.enter_context(work_folder(folder / "files"))
            console = Console(6, out)
            tools = Toolbox(
                opened,
                stats,
                console,
                search_url=url,
                timeout_s=5,
                characters=task.observation,
                together=stack.enter_context(AsyncWeb(url, 5)) if together else None,
                memory=memory,
            )
            agent = Agent(
                task, brain, toolbox=tools, history=history, stats=stats, watcher=console, memory=memory
            )
            done = unfinished(history.path, task.goal, task.loops)
            history.append({"goal": task.goal, **({"resumed": len(done)} if done else {})})
            agent.run(done)
    finally:
        history.close()
    return stats, out.getvalue()


def history(folder: Path) -> list[dict[str, Any]]:
    """The steps in the history file."""
    lines = (folder / "history.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if "step" in record]


def test_search_write_finish(tmp_path: Path) -> None:
    """Each step's result is in the next step's prompt, in the history file and in the account."""
    log = io.StringIO()
    brain = ScriptedBrain(SEARCH, WRITE, FINISH)
    with SearchServer("127.0.0.1", 0, Behaviour(latency_s=0.05), log) as server:
        stats, out = run(brain, tmp_path, server.url)
    assert stats.outcome == "finished"
    assert (tmp_path / "files" / "a.txt").read_text() == "body"
    assert brain.prompts[1].startswith(brain.prompts[0])
    assert brain.prompts[2].startswith(brain.prompts[1])
    assert "Why a GPU sits idle" in brain.prompts[1]
    assert "no results" in brain.prompts[1]
    assert [record["call"]["tool"] for record in history(tmp_path)] == ["search_web", "write_file", "finish"]
    assert "search_web('gpu idle')" in out

    calls = stats.tool_calls
    assert [(call.tool, call.step, call.ok) for call in calls] == [
        ("search_web", 1, True),
        ("search_web", 1, True),
        ("write_file", 2, True),
    ]
    held = [json.loads(line) for line in log.getvalue().splitlines()]
    for call, line in zip(calls, held, strict=False):
        # The same clock on both sides: the call began before the server had the request, and lasted longer.
        assert call.start <= line["received_at"]
        assert call.duration_s >= 0.05
    assert calls[0].start + calls[0].duration_s <= calls[1].start


def test_a_failing_search_does_not_end_the_run(tmp_path: Path) -> None:
    """The model reads that the search failed, and the person how to start a server."""
    brain = ScriptedBrain(SEARCH, FINISH)
    stats, out = run(brain, tmp_path)
    assert stats.outcome == "finished"
    assert [call.ok for call in stats.tool_calls] == [False, False]
    assert "failed" in brain.prompts[1]
    assert "error: " in out


def test_the_loops_are_a_limit(tmp_path: Path) -> None:
    """A model that never finishes stops after the given number of steps."""
    stats, _ = run(ScriptedBrain(*WRITES), tmp_path, loops=4)
    assert (stats.outcome, stats.steps, len(history(tmp_path))) == ("loops", 4, 4)


def test_the_schedule_ends_with_notes_and_an_answer() -> None:
    """A model that cannot choose searches, then writes notes, then finishes, for any number of loops."""
    assert [[schedule(step, loops) for step in range(1, loops + 1)] for loops in (1, 2, 3)] == [
        [("search_web",)],
        [("search_web",), ("finish",)],
        [("search_web",), ("write_file",), ("finish",)],
    ]
    assert [schedule(step, 6)[0] for step in range(1, 7)] == ["search_web"] * 4 + ["write_file", "finish"]


def test_a_plan_outlives_its_step_in_the_prompt(tmp_path: Path) -> None:
    """It is printed; the step that made it leaves the prompt, the plan stays in it."""
    make = {"tool": "make_plan", "thought": "first", "steps": ["find out", "write [it] \x1b[2J down"]}
    brain = ScriptedBrain(make, *WRITES[:10], FINISH)
    _, out = run(brain, tmp_path, loops=12, context=2000)
    assert "   1. find out\n" in out
    assert "\x1b" not in out
    assert '"tool":"make_plan"' in brain.prompts[0]
    assert '"steps":["find out"' in brain.prompts[1]
    assert '"steps":["find out"' not in brain.prompts[-1]
    assert "\nPlan:\n1. find out\n2. write it 2J down\n" in brain.prompts[-1]


def test_an_interruption_keeps_what_was_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in a tool leaves every completed step in the file, and the cut call in the account."""

    def interrupted(query: str, base_url: str, timeout_s: float, first: int) -> Observation:
        raise KeyboardInterrupt

    monkeypatch.setattr(toolbox, "search_web", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(ScriptedBrain(WRITE, SEARCH), tmp_path)
    assert [record["step"] for record in history(tmp_path)] == [1]


BROKEN = [
    ({"tool": "rm"}, "there is no tool 'rm', only make_plan, search_web"),
    ({"thought": "x"}, 'no object with a key "tool"'),
    ([], 'no object with a key "tool"'),
    ({"tool": "search_web", "thought": "x"}, '"queries" with a list of texts'),
    ({"tool": "search_web", "queries": []}, "1 to 16 entries"),
    ({"tool": "search_web", "queries": ["x"] * 17}, "1 to 16 entries"),
    ({"tool": "search_web", "queries": [1]}, '"queries" with a list of texts'),
    ({"tool": "write_file", "name": "a", "text": 3}, '"text" with a text'),
]


@pytest.mark.parametrize(("said", "told"), BROKEN)
def test_what_is_wrong_with_an_answer_is_told_to_the_model(tmp_path: Path, said: Any, told: str) -> None:
    """A broken call or an unknown tool costs a step; the model reads why, and goes on."""
    brain = ScriptedBrain(said, WRITE, FINISH)
    stats, out = run(brain, tmp_path)
    assert stats.outcome == "finished"
    assert (
        f"error: not a tool call ({told}".replace('"', "") in brain.prompts[1].replace('"', "")
        or told in brain.prompts[1]
    )
    assert "not a tool call" in out
    assert [record["call"] is None for record in history(tmp_path)] == [True, False, False]


def test_an_answer_that_is_no_call_is_one_clear_error(tmp_path: Path) -> None:
    """A model that never learns it, a damaged file for one, ends the run with a reason, not a traceback."""
    with pytest.raises(AgentError, match="step 3 is not a tool call"):
        run(ScriptedBrain({"tool": "rm"}), tmp_path)
    assert len(history(tmp_path)) == 3


def test_a_loop_of_the_same_call_is_broken(tmp_path: Path) -> None:
    """The third time a call is not carried out and the model is told so, whatever thought it has."""
    again = [{**SEARCH, "thought": f"thought {number}"} for number in range(3)]
    brain = ScriptedBrain(*again, WRITE, FINISH)
    with SearchServer("127.0.0.1", 0, Behaviour(latency_s=0.01)) as server:
        stats, _ = run(brain, tmp_path, server.url)
    assert stats.outcome == "finished"
    assert [call.step for call in stats.tool_calls] == [1, 1, 2, 2, 4]
    assert "this same call was made before" in brain.prompts[3]


def test_a_model_that_cannot_stop_repeating_is_stopped(tmp_path: Path) -> None:
    """Told four times in a row in vain, the run ends with a reason; the call was carried out twice."""
    with pytest.raises(AgentError, match="same call again and again"):
        run(ScriptedBrain(WRITE), tmp_path, loops=40)
    assert len(history(tmp_path)) == 6


PAGES = [
    {"tool": "read_page", "thought": "t", "pages": ["1", "4", "9", "http://127.0.0.1:9/", "nonsense"]},
    FINISH,
]


@pytest.mark.parametrize("behaviour", [Behaviour(0.02, 0.03), Behaviour(0.01, error_rate=0.5, seed=3)])
def test_both_ways_to_call_tools_give_the_same_answers(tmp_path: Path, behaviour: Behaviour) -> None:
    """Searches and pages, one after another and together: the model reads the same, in the same order."""
    prompts = []
    for together in (False, True):
        brain = ScriptedBrain(SEARCH, *PAGES)
        with SearchServer("127.0.0.1", 0, behaviour) as server:
            folder = tmp_path / str(together)
            stats, _ = run(brain, folder, server.url, together=together, observation=2000)
            prompts.append([prompt.replace(str(server.server_port), "PORT") for prompt in brain.prompts])
        assert stats.outcome == "finished"
    assert prompts[0] == prompts[1]
    assert "the last search has no result 9" in prompts[0][2]
    assert "the address is not public" in prompts[0][2]


def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the model reads, calls and is answered is the same as in a run that nothing interrupted."""
    make = {"tool": "make_plan", "thought": "first", "steps": ["find out", "write it down"]}
    calls = [make, SEARCH, {"tool": "rm"}, WRITE, PAGES[0], *WRITES[1:3], FINISH]
    with SearchServer("127.0.0.1", 0, Behaviour(latency_s=0.01)) as server:
        whole = ScriptedBrain(*calls)
        run(whole, tmp_path / "whole", server.url, loops=9)
        for step in range(1, len(calls) + 1):
            folder, brain = tmp_path / str(step), ScriptedBrain(*calls)
            brain.interrupted_in = step
            with pytest.raises(KeyboardInterrupt):
                run(brain, folder, server.url, loops=9)
            with (folder / "history.jsonl").open("ab") as file:
                file.write(b'{"step": 9, "call": {"to')  # a line that a crash cut
            brain.interrupted_in = 0
            stats, _ = run(brain, folder, server.url, loops=9)
            assert (stats.outcome, stats.steps, stats.resumed) == ("finished", len(calls), step - 1)
            assert brain.prompts == whole.prompts
            assert untimed(folder) == untimed(tmp_path / "whole")


@pytest.mark.parametrize(("loops", "outcome"), [(6, "finished"), (2, "loops")])
def test_a_run_whose_last_step_is_on_disk_has_ended(tmp_path: Path, loops: int, outcome: str) -> None:
    """What interrupts the memory's catching up then does not make it one that was interrupted."""
    calls, stats = ([WRITE, FINISH] if outcome == "finished" else WRITES), Stats()
    memory = Mock(catch_up=Mock(side_effect=[None, KeyboardInterrupt]))
    with pytest.raises(KeyboardInterrupt):
        run(ScriptedBrain(*calls), tmp_path, memory=memory, loops=loops, stats=stats)
    assert (stats.outcome, stats.complete) == (outcome, True)


CUT = "cut \ud83d"  # half of an emoji: JSON can hold it, UTF-8 cannot


@pytest.mark.parametrize("together", [False, True])
def test_half_a_character_does_not_end_the_run(tmp_path: Path, together: bool) -> None:
    """What a server's model cut is searched for, read, written and remembered with a mark in its place."""
    calls = [
        {"tool": "search_web", "thought": CUT, "queries": [CUT]},
        {"tool": "read_page", "thought": CUT, "pages": [f"http://127.0.0.1:9/{CUT}"]},
        {"tool": "write_file", "thought": CUT, "name": "a.txt", "text": CUT},
        {"tool": "recall", "thought": CUT, "query": CUT},
        {"tool": "finish", "thought": CUT, "answer": CUT},
    ]
    with remembering(tmp_path) as memory:
        stats, _ = run(ScriptedBrain(*calls), tmp_path, memory=memory, together=together)
    assert stats.outcome == "finished"
    assert (tmp_path / "files" / "a.txt").read_text() == "cut \ufffd"
    assert not any("\ud83d" in json.dumps(record, ensure_ascii=False) for record in history(tmp_path))


def test_two_halves_of_a_character_are_one() -> None:
    """A server may end an event of its stream in the middle of one."""
    assert encodable("\ud83d" + "\ude00!") == "\U0001f600!"


def test_a_history_with_half_a_character_is_gone_on_from(tmp_path: Path) -> None:
    """One that is on disk already is read, remembered and not in the way of the next step."""
    call = {"tool": "search_web", "thought": CUT, "queries": [CUT]}
    records = [{"goal": "the goal"}, {"step": 1, "call": call, "observation": "found"}]
    write(tmp_path / "history.jsonl", *(json.dumps(record) + "\n" for record in records))
    brain = ScriptedBrain(WRITE, FINISH)
    with remembering(tmp_path) as memory:
        stats, _ = run(brain, tmp_path, memory=memory)
        assert memory.account.entries > 0
    assert (stats.outcome, stats.resumed) == ("finished", 1)
    brain.prompts[0].encode()


@contextmanager
def remembering(folder: Path) -> Iterator[Managed]:
    store = VectorStore(folder / "memory.db", Letters.dimensions, Letters.name)
    try:
        yield Managed(folder / "history.jsonl", store, Letters(), print, limits=Limits())
    finally:
        store.close()


def untimed(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if not k.endswith("_s")} for record in history(folder)]


def test_what_a_model_writes_cannot_drive_the_terminal(tmp_path: Path) -> None:
    """Control characters in a thought, a query, a name or an answer are not printed."""
    evil = "a\x1b]0;owned\x07\x9b2J\u202eb\r\n"
    calls: list[dict[str, Any]] = [
        {"tool": "search_web", "thought": evil, "queries": [evil]},
        {"tool": "write_file", "thought": evil, "name": evil, "text": evil},
        {"tool": "finish", "thought": evil, "answer": evil},
    ]
    _, out = run(ScriptedBrain(*calls), tmp_path)
    assert all(character.isprintable() for line in out.split("\n") for character in line)


def test_streaming_on_a_terminal_stays_on_one_line() -> None:
    """On a terminal each bit redraws one line, which the finished thought replaces."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    console = Console(6, out)
    console.thinking(1)
    write: Callable[[str], None] = console.wrote
    for _ in range(200):
        write("x")
    assert "\n" not in out.getvalue()
    assert max(len(part) for part in out.getvalue().split("\r\x1b[2K")) < 80
    console.thought(1, Finish("thought", "answer"), Answer("", 1, 1, 0.5))
    assert out.getvalue().count("\n") == 2


def test_recall_answers_from_earlier_steps(tmp_path: Path) -> None:
    """With a memory the prompt offers the tool, and what an earlier step found comes back."""
    ask = {"tool": "recall", "thought": "what was it", "query": "body"}
    brain = ScriptedBrain(WRITE, ask, FINISH)
    store = VectorStore(tmp_path / "memory.db", Letters.dimensions, Letters.name)
    try:
        memory = Unbounded(tmp_path / "history.jsonl", store, Letters(), print)
        stats, _ = run(brain, tmp_path, memory=memory)
    finally:
        store.close()
    assert '"recall"' in brain.prompts[0]
    assert "wrote 4 bytes to a.txt" in brain.prompts[2]
    assert stats.outcome == "finished"
    assert [(call.tool, call.ok) for call in stats.tool_calls] == [("write_file", True), ("recall", True)]
    assert memory.account.entries == 2 * (2 + 2 + 1)  # finishing has no result


def test_without_a_memory_the_prompt_offers_none(tmp_path: Path) -> None:
    """A model that asks all the same reads that there is none."""
    brain = ScriptedBrain({"tool": "recall", "thought": "t", "query": "q"}, FINISH)
    run(brain, tmp_path)
    assert '"recall"' not in brain.prompts[0]
    assert "there is no memory" in brain.prompts[1]


def test_the_steps_that_left_the_prompt_leave_a_line_each(tmp_path: Path) -> None:
    """A managed run's prompt begins with the introduction, then what earlier steps came to, in few tokens."""
    brain = ScriptedBrain(*WRITES)
    run(brain, tmp_path, loops=40, context=2000, summary_tokens=150)
    assert "Earlier:\n- write_file a.txt: wrote 4 bytes to a.txt (x" in brain.prompts[-1]
    assert max(map(len, brain.prompts)) <= 2000 - 512


def test_a_whole_history_stays_in_the_prompt(tmp_path: Path) -> None:
    """No step leaves it, however many there are."""
    brain = ScriptedBrain(*WRITES)
    run(brain, tmp_path, loops=40, context=2000, whole=True)
    assert brain.prompts[-1].count("Result: ") == 39


def test_the_account_of_a_long_run_is_bounded() -> None:
    """Of ten thousand calls the latest are listed; the time of all is known."""
    stats = Stats()
    for step in range(10_000):
        with stats.calling("search_web", step) as call:
            pass
        call.duration_s = 0.5
        call.start = float(step)
    assert len(stats.tool_calls) <= MAX_CALLS
    assert stats.earlier_calls + len(stats.tool_calls) == 10_000
    assert stats.tools_s == pytest.approx(5000.0)
