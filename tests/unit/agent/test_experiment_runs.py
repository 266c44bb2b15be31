"""How an experiment runs the agent and reads a recording, with programs that stand in for whyidle."""

import json
from pathlib import Path

import pytest

from whyidle_agent.errors import AgentError
from whyidle_agent.experiments import context, observed
from whyidle_agent.experiments.observed import Plan, folder, observe


def program(path: Path, *lines: str) -> None:
    path.write_text("\n".join(("#!/bin/sh", *lines)) + "\n")
    path.chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "bin"
    made.mkdir()
    for module in (observed, context):
        monkeypatch.setattr(module, "PROGRAMS", made)
    return made


def test_a_run_is_taken_with_its_accounts(tmp_path: Path, programs: Path) -> None:
    """Report, account and history are read from where the run was told to put them."""
    program(
        programs / "whyidle",
        'report=$3; while [ "$1" != -- ]; do shift; done; shift 3',
        "while [ $# -gt 0 ]; do case $1 in --workdir) work=$2;; --stats) stats=$2;; esac; shift; done",
        'mkdir -p "$work"; echo \'{"goal": "g"}\' > "$work/history.jsonl"',
        'echo \'{"step": 1}\' >> "$work/history.jsonl"',
        'echo \'{"steps": 1}\' > "$stats"; echo \'{"findings": []}\' > "$report"',
    )
    ticks: list[None] = []
    run = observe(tmp_path, Plan("x", 1, ()), 7, lambda: ticks.append(None))
    assert (run.stats, run.report, run.steps) == ({"steps": 1}, {"findings": []}, [{"step": 1}])
    assert ticks


@pytest.mark.parametrize(
    ("status", "fails", "says"), [(3, False, "status 3"), (0, True, "came to its end"), (2, True, "status 2")]
)
def test_a_run_that_ends_otherwise_is_one_clear_error(
    tmp_path: Path, programs: Path, status: int, fails: bool, says: str
) -> None:
    """An error of whyidle or the agent ends the experiment, and so does a context that did not fill."""
    program(programs / "whyidle", f"exit {status}")
    with pytest.raises(AgentError, match=says):
        observe(tmp_path, Plan("x", 1, (), fails=fails), 1)


def test_a_run_without_its_account_is_one_clear_error(tmp_path: Path, programs: Path) -> None:
    """A run that ends well and writes nothing is not taken for one."""
    program(programs / "whyidle", "exit 0")
    with pytest.raises(AgentError, match=r"x-stats\.json"):
        observe(tmp_path, Plan("x", 1, ()), 1)


def test_an_earlier_runs_files_are_not_this_ones(tmp_path: Path, programs: Path) -> None:
    """What lies in the folder from before is removed first."""
    (tmp_path / "x-work").mkdir()
    for name in ("x-stats.json", "x-report.json", "x-work/history.jsonl"):
        (tmp_path / name).write_text("{}")
    program(programs / "whyidle", "exit 0")
    with pytest.raises(AgentError):
        observe(tmp_path, Plan("x", 1, ()), 1)
    assert not (tmp_path / "x-work").exists()


def test_a_folder_that_is_a_file_is_one_clear_error(tmp_path: Path) -> None:
    """--out names something that is in the way."""
    (tmp_path / "out").write_text("")
    with pytest.raises(AgentError, match="cannot use"):
        folder(tmp_path / "out")


@pytest.mark.parametrize("most", [2, 3, 5, 9, 40])
def test_the_first_half_is_the_latest_copy_with_no_more_inferences(
    tmp_path: Path, programs: Path, most: int
) -> None:
    """Of the copies of a growing recording, the last that was made before the given inference was over."""
    program(programs / "whyidle", 'cp "$2" "$4"')
    recording = tmp_path / "recording"
    copies = context._Copies(recording, tmp_path / "cut")
    copies.take()  # there is none yet
    counts = [0, 0, 1, 2, 2, 4, 5, 7, 12]
    for number, count in enumerate(counts):
        engines = [{"latency_s": {"count": count}}] if count else [{"latency_s": None}]
        recording.write_text(json.dumps({"number": number, "engines": engines}) + " " * number * 50)
        copies.take()
        copies.take()  # it has not grown
    found = copies.before(most)
    assert found["number"] == max(number for number, count in enumerate(counts) if count <= most)
    copies.remove()
    assert not (tmp_path / "cut").exists()


def test_a_run_too_short_to_be_recorded_is_one_clear_error(tmp_path: Path, programs: Path) -> None:
    """No copy that can be reported on."""
    program(programs / "whyidle", "exit 1")
    recording = tmp_path / "recording"
    recording.write_text("x")
    copies = context._Copies(recording, tmp_path / "cut")
    copies.take()
    with pytest.raises(AgentError, match="too short"):
        copies.before(3)
