"""The text report: what it looks like, and that no target can make it look otherwise."""

from __future__ import annotations

import copy
import io
import json
import os
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from fake_daemon import SAMPLE
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from whyidle_cli.output import json_text, write_json
from whyidle_cli.render.report import print_report, report_lines
from whyidle_cli.render.states import look
from whyidle_wire.report import FINDING_KINDS, SEVERITIES, STATES

SNAPSHOT = Path(__file__).with_name("report_80.txt")
UNSAFE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def text_of(report: dict[str, Any], width: int = 80) -> str:
    stream = io.StringIO()
    print_report(report, stream, width)
    return stream.getvalue()


def test_snapshot() -> None:
    """The sample report looks like the snapshot; WHYIDLE_UPDATE_SNAPSHOTS=1 renews it."""
    text = text_of(SAMPLE)
    if os.environ.get("WHYIDLE_UPDATE_SNAPSHOTS"):
        SNAPSHOT.write_text(text)
    assert text == SNAPSHOT.read_text()


def test_sample_obeys_the_sums() -> None:
    """The sample itself keeps the contract: the states of each thread add up to its wall time."""
    for thread in SAMPLE["threads"]:
        assert sum(thread["states"].values()) == pytest.approx(thread["wall_s"], rel=0.001)
        assert set(thread["states"]) <= set(STATES)
    assert {finding["kind"] for finding in SAMPLE["findings"]} <= set(FINDING_KINDS)


def test_where_it_ran() -> None:
    """Container and pod, else the service; a report over the history says of how many parts and targets."""
    report = copy.deepcopy(SAMPLE)
    report["target"] |= {"container": None, "pod": None, "unit": "vllm.service"}
    assert "in vllm.service" in text_of(report, 100)
    report["target"]["unit"] = "session-3.scope"
    assert "session-3" not in text_of(report, 100)
    where = {"runtime": "docker", "id": "0123456789abcdef" * 4}
    report["target"] |= {"container": where, "pod": "3f6a1c2e-9a3b-4c5d-8e7f-001122334455"}
    assert "in docker container 0123456789ab of pod 3f6a1c2e" in text_of(report, 100)
    report["parts"], report["target"]["targets"] = 3, [{}, {}]
    assert "from 3 parts of the history" in text_of(report, 100)
    assert "and 1 other target" in text_of(report, 100)


@pytest.mark.parametrize("moment", ["9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+12:00", "x"])
def test_a_moment_that_is_none(moment: str) -> None:
    """A recording may say what it likes: it is shown as it is."""
    report = copy.deepcopy(SAMPLE)
    report["target"]["started_at"] = moment
    assert f"started {moment}" in text_of(report)


@pytest.mark.parametrize("width", [60, 72, 80, 93, 100])
def test_width(width: int) -> None:
    """No line is wider than the terminal."""
    assert max(line.cell_len for line in report_lines(SAMPLE, width)) <= width


def test_no_escape_sequences_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not a terminal gets plain text of 80 columns, whatever TERM and COLUMNS say."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "200")
    stream = io.StringIO()
    print_report(SAMPLE, stream)
    assert "\x1b" not in stream.getvalue()
    assert max(map(cell_len, stream.getvalue().splitlines())) <= 80


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal gets colours, and none with NO_COLOR."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = Terminal()
    print_report(SAMPLE, coloured, 80)
    assert "\x1b[32m" in coloured.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    plain = Terminal()
    print_report(SAMPLE, plain, 80)
    assert not any(f"\x1b[{code}m" in plain.getvalue() for code in range(30, 38))


def test_findings_come_first() -> None:
    """Findings stand before every table, in the daemon's order."""
    text = text_of(SAMPLE)
    order = [
        text.index(word)
        for word in ("blocking network call", "cpu starved", "ENGINES", "WHY IDLE", "THREADS")
    ]
    assert order == sorted(order)


def test_report_without_anything() -> None:
    """A target without an engine and findings, gone in no time, gives a report that says so."""
    report = {
        **SAMPLE,
        "processes": [], "threads": [], "engines": [], "gaps": [], "idle_by_cause": [], "findings": [],
        "target": {**SAMPLE["target"], "duration_s": 0.0, "command": [], "exit_status": None},
    }  # fmt: skip
    text = text_of(report)
    assert "No model engine was seen" in text
    assert "Nothing that costs enough to be worth changing." in text


def test_unknown_values() -> None:
    """Unknown is said to be unknown, and never shown as 0."""
    report = copy.deepcopy(SAMPLE)
    for key in ("tid", "thread", "syscall", "engine_idle_s", "share_of_idle", "saves_s", "longest_s", "peer"):
        report["findings"][0][key] = None
    report["engines"][0] |= {"latency_s": None}
    report["overhead"]["bpf_run_s"] = None
    report["processes"][0]["rss_peak_bytes"] = None
    finding = text_of(report).partition("cpu starved")[0]
    assert "saves" not in finding
    assert "explains" not in finding
    assert "unknown" in text_of(report)
    del report["findings"][0]["syscall"], report["findings"][0]["longest_s"]
    assert text_of(report)


def test_code_is_named_when_it_is_known() -> None:
    """A finding with a Python frame names function, file and line, and the system call after it."""
    report = copy.deepcopy(SAMPLE)
    report["findings"][0] |= {"function": "search_web", "file": "/home/me/agent/tools.py", "line": 42}
    assert "search_web() (tools.py:42), system call recvfrom" in text_of(report)


def test_losses_are_said() -> None:
    """Lost events are in the last lines, with what they mean."""
    report = {**SAMPLE, "loss": {"events_lost": 3, "stacks_lost": 1, "seconds_blind": 0.5}}
    text = text_of(report)
    assert "Incomplete: 3 events lost, 1 stack lost, blind for 500 ms; the numbers are lower" in text
    assert "Nothing was lost" not in text


def test_many_threads_processes_and_causes() -> None:
    """Long lists are cut, and what was cut is summed up."""
    report = copy.deepcopy(SAMPLE)
    report["threads"] *= 50
    report["processes"] *= 50
    causes = report["idle_by_cause"]
    report["idle_by_cause"] = [{**cause, "function": f"f{n}"} for n in range(50) for cause in causes]
    report["loops"] *= 50
    text = text_of(report)
    assert "more threads" in text
    assert "92 more processes" in text
    assert "192 more causes" in text
    assert "97 more loops" in text
    assert len(text.splitlines()) < 100


def test_what_the_report_leaves_out_is_counted() -> None:
    """The daemon names a thousand processes and threads at most, and sums up the others."""
    report = copy.deepcopy(SAMPLE)
    (alone,) = [thread for thread in report["threads"] if thread["name"] == "sandbox"]
    report["threads"] = [alone]
    report["threads_omitted"] = {"count": 9000, "wall_s": 100.0, "states": {"sleep": 99.0, "running": 1.0}}
    report["processes_omitted"] = {"count": 500, "cpu_s": 12.0}
    text = text_of(report)
    assert "502 processes, 9001 threads" in text
    row, legend = text.partition("  9000 more threads")[2].splitlines()[:2]
    assert row.endswith("1 min 40 s")
    assert legend.strip() == "running 1 % · sleep 99 %"
    assert text.partition("PROCESSES")[2].partition("\n\n")[0].splitlines()[-1].split() == [
        "12.0", "s", "500", "more", "processes",
    ]  # fmt: skip
    report["threads"] = SAMPLE["threads"]
    assert "9007 more threads" in text_of(report)


def test_a_pool_of_threads_is_one_cause() -> None:
    """The headline names what most time went to, however many threads it is split over; rows add up."""
    report = copy.deepcopy(SAMPLE)
    network, runqueue, *_ = report["idle_by_cause"]
    pool = [{**network, "tid": n, "seconds": 1.0, "share": 0.15} for n in range(4)]
    report["idle_by_cause"] = [{**runqueue, "seconds": 3.0, "share": 0.4}, *pool]
    text = text_of(report)
    assert "60 % of that because of waiting" in text
    assert "waiting\nfor the network." in text
    rows = text.partition("WHY IDLE")[2].partition("EVENT LOOPS")[0].splitlines()[1:3]
    assert rows[0].split()[0] == "network"
    assert rows[0].endswith("4.00 s   60 %")
    assert rows[1].endswith("3.00 s   40 %")


def test_several_engines_are_all_in_the_headline() -> None:
    """What explains the idle time is of all of them; an engine below another one counts no second twice."""
    report = copy.deepcopy(SAMPLE)
    (engine,) = report["engines"]
    above = [{**engine, "busy_s": 1.0, "idle_s": idle, "finest": True} for idle in (4.0, 2.0)]
    report["engines"] = [*above, {**engine, "idle_s": 100.0, "finest": False}]
    assert "2 engines together were idle for 6.00 s of 8.00 s (75 %), 93 % of that" in text_of(report)
    report["engines"].pop(0)
    assert "The model was idle for 2.00 s of 3.00 s (67 %), 93 % of that" in text_of(report)


hostile = st.text(
    st.characters() | st.sampled_from("\x1b\x9b\u202e\u200b\n\r\t\x00[]界\u0301"), min_size=1, max_size=80
) | st.sampled_from(["\x1b]0;owned\x07", "[red]x[/red]", "界" * 60, "a" * 5000, "[/]", ":smile:"])


@settings(max_examples=40)
@given(hostile, st.sampled_from([60, 80, 100]))
def test_hostile_names(name: str, width: int) -> None:
    """Whatever a target calls itself, no line is too wide, none holds a control, and markup is just text."""
    report = copy.deepcopy(SAMPLE)
    report["target"]["command"] = [name, name]
    report["host"]["kernel"] = name
    peer = {"host": name, "address": name, "port": 1}
    for process in report["processes"]:
        process["command"] = name
    for thread in report["threads"]:
        thread["name"] = name
    for cause in report["idle_by_cause"]:
        cause |= {"function": name, "peer": peer}
    report["engines"][0]["id"] = name
    report["findings"][0] |= {
        "thread": name, "tid": 1, "function": name, "file": name, "line": 3, "peer": peer, "syscall": name,
        "advice": name, "confidence_reasons": [name],
    }  # fmt: skip
    for line in text_of(report, width).split("\n"):
        assert cell_len(line) <= width
        assert not any(unicodedata.category(character) in UNSAFE for character in line)


def test_markup_is_text() -> None:
    """Rich's markup and emoji codes in a name are shown as they are."""
    report = copy.deepcopy(SAMPLE)
    report["findings"][0]["advice"] = "use [bold]x[/bold] :smile:"
    assert "use [bold]x[/bold] :smile:" in text_of(report)


def test_json_is_plain_ascii_without_nan() -> None:
    """JSON is harmless to a terminal, and unknown numbers are null in it."""
    text = json_text({"a": "\x9b2J\u202e", "b": float("nan"), "c": [float("inf")], "d": b"x"})
    assert text.isascii()
    assert json.loads(text) == {"a": "\x9b2J\u202e", "b": None, "c": [None], "d": "x"}


def test_json_is_not_put_in_the_place_of_a_device(tmp_path: Path) -> None:
    """What is not a regular file is written to; a symbolic link stays one; permissions are kept."""
    write_json(SAMPLE, Path("/dev/null"))
    assert not Path("/dev/null").is_file()
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    real.write_text("")
    real.chmod(0o640)
    link.symlink_to(real)
    write_json(SAMPLE, link)
    assert link.is_symlink()
    assert json.loads(real.read_text()) == SAMPLE
    assert real.stat().st_mode & 0o777 == 0o640


def test_what_explains_a_report_names_all_of_it() -> None:
    """REPORT.md has a line for each kind of finding, and for each state with the sign that is drawn."""
    text = (Path(__file__).parents[3] / "REPORT.md").read_text()
    for kind in FINDING_KINDS:
        assert f"\n| `{kind}` |" in text, kind
    for state in STATES:
        assert f"\n| `{state}` | {look(state).glyph} |" in text, state
    for severity in SEVERITIES:
        assert f"\n| {severity} |" in text
