"""Workers: what becomes of tasks whose runs succeed, fail, crash, hang, or are cut short."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families as parsed

from harness import wait_until
from harness_cli import BIN, SearchServer
from whyidle_agent.main import main
from whyidle_agent.queue import Queue, QueuedTask
from whyidle_agent.queue_metrics import Metrics
from whyidle_agent.worker import Policy, Worker

SUCCEED = """
import json, sys
print(sys.argv[1:])
arguments = dict(zip(sys.argv[2::2], sys.argv[3::2]))
with open(arguments["--stats"], "w") as file:
    json.dump({"outcome": "finished", "steps": int(arguments["--loops"]), "tool_calls": [1, 2]}, file)
"""
FAIL = "import sys; print('whyidle-agent: no model\\x1b[2J file', file=sys.stderr); sys.exit(1)"
CRASH = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
HANG = """
import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
print("up", flush=True)
time.sleep(600)
"""
POLITE = (
    "import sys, time\nprint('up', flush=True)\ntry: time.sleep(600)\nexcept KeyboardInterrupt: sys.exit(130)"
)


class Told:
    """What the worker said, and what it counted."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.ended: list[str] = []

    def count(self, outcome: str, seconds: float) -> None:
        assert seconds >= 0
        self.ended.append(outcome)


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return Queue(tmp_path / "queue")


@contextmanager
def working(queue: Queue, program: str, **policy: Any) -> Iterator[Told]:
    """Run one worker whose tasks are `program`, until the block ends."""
    told, stop = Told(), threading.Event()
    worker = Worker(
        queue,
        Policy(**{"poll_s": 0.01, "attempts": 2, **policy}),
        stop,
        (sys.executable, "-c", program),
        told=told.lines.append,
        ended=told.count,
    )
    thread = threading.Thread(target=worker.serve)
    thread.start()
    try:
        yield told
    finally:
        stop.set()
        thread.join()


def result(queue: Queue, state: str, name: str) -> dict[str, Any]:
    """Return the result once it is there."""
    path = queue.folder / state / f"{name}.json"
    wait_until(path.exists, f"a result in {state}")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_a_task_is_run_with_its_own_arguments_and_those_of_all(queue: Queue) -> None:
    """Goal, loops and seed are the task's, also a goal that looks like an option; the rest is given."""
    name = queue.submit(QueuedTask("--model=/etc/passwd", loops=4, seed=7))
    with working(queue, SUCCEED, options=["--tools", "async"]) as told:
        found = result(queue, "done", name)
    assert (found["outcome"], found["steps"], found["attempts"]) == ("finished", 4, 1)
    assert "tool_calls" not in found
    said = (queue.folder / "work" / name / "log").read_text()
    assert said.startswith("['--goal=--model=/etc/passwd', '--loops', '4', '--seed', '7', '--workdir', ")
    assert said.endswith("'--tools', 'async']\n")
    assert told.ended == ["done"]


@pytest.mark.parametrize(
    ("program", "why"),
    [(FAIL, "exit status 1: no model [2J file"), (CRASH, "ended by SIGSEGV")],
)
def test_a_task_that_fails_is_tried_again_and_then_given_up(queue: Queue, program: str, why: str) -> None:
    """Two attempts of two, then failed/ with the reason; the next task is worked on all the same."""
    names = [queue.submit(QueuedTask("goal")) for _ in range(2)]
    with working(queue, program) as told:
        found = [result(queue, "failed", name) for name in names]
    assert [(one["reason"], one["attempts"]) for one in found] == [(why, 2)] * 2
    assert told.ended == ["retried", "failed"] * 2


def test_a_task_that_kills_its_workers_is_given_up(queue: Queue) -> None:
    """Attempts are counted before they are made: nothing takes down one worker after another for ever."""
    name = queue.submit(QueuedTask("goal"))
    for _ in range(2):
        claim = queue.claim()
        assert claim is not None
        claim.begin()
        os.close(claim.lock)  # what SIGKILL does
    with working(queue, SUCCEED):
        found = result(queue, "failed", name)
    assert found["reason"] == "every worker that tried it died"
    assert not (queue.folder / "work" / name / "log").exists()


def test_a_hanging_task_is_ended(queue: Queue) -> None:
    """A run over its time that ignores Ctrl-C is killed, and that was an attempt."""
    name = queue.submit(QueuedTask("goal"))
    with working(queue, HANG, attempts=1, timeout_s=0.5, grace_s=0.1):
        found = result(queue, "failed", name)
    assert found["reason"] == "it took longer than 0.5 s"


@pytest.mark.parametrize("program", [POLITE, HANG])
def test_a_worker_that_stops_gives_its_task_back(queue: Queue, program: str) -> None:
    """At a shutdown the task waits again, untried, and its run is gone."""
    name = queue.submit(QueuedTask("goal"))
    with working(queue, program, grace_s=0.1) as told:
        log = queue.folder / "work" / name / "log"
        wait_until(lambda: log.exists() and log.read_text(), "the run")
    assert queue.counts()["waiting"] == 1
    assert told.lines[-1] == f"{name}: given back"
    claim = queue.claim()
    assert claim is not None
    assert claim.begin() == 1


def test_a_bad_task_does_not_hold_up_the_others(queue: Queue) -> None:
    """A file that is no task goes to failed/ with the reason, in one line."""
    (queue.folder / "waiting" / "0bad.json").write_text('{"gaol": "\x1b[2J"}')
    name = queue.submit(QueuedTask("goal"))
    with working(queue, SUCCEED) as told:
        result(queue, "done", name)
    assert "unknown field" in result(queue, "failed", "0bad")["reason"]
    assert told.ended == ["failed", "done"]


def test_a_queue_that_goes_away_and_comes_back(queue: Queue) -> None:
    """A worker whose folder vanishes says so and goes on when it is there again (a mount that failed)."""
    away = queue.folder.with_name("away")
    with working(queue, SUCCEED) as told:
        queue.folder.rename(away)
        wait_until(lambda: told.lines, "the complaint")
        away.rename(queue.folder)
        result(queue, "done", queue.submit(QueuedTask("goal")))
    assert told.lines[0] == "the queue cannot be used: No such file or directory"


def scraped(metrics: Metrics) -> dict[str, float]:
    from prometheus_client import generate_latest  # noqa: PLC0415

    text = generate_latest(metrics.registry).decode()
    return {
        f"{sample.name}{''.join(sample.labels.values())}": sample.value
        for family in parsed(text)
        for sample in family.samples
    }


def test_metrics_tell_the_length_of_the_queue(queue: Queue) -> None:
    """The length is that of the folder now; a folder that cannot be read has none, and not 0."""
    metrics = Metrics(queue)
    assert scraped(metrics)["whyidle_agent_queue_taskswaiting"] == 0
    for _ in range(3):
        queue.submit(QueuedTask("goal"))
    claim = queue.claim()
    metrics.ended("done", 3.0)
    found = scraped(metrics)
    assert claim is not None
    assert found["whyidle_agent_queue_taskswaiting"] == 2
    assert found["whyidle_agent_queue_tasksrunning"] == 1
    assert found["whyidle_agent_queue_oldest_seconds"] >= 0
    assert found["whyidle_agent_tasks_totaldone"] == 1
    assert found["whyidle_agent_task_seconds_sum"] == 3
    queue.folder.rename(queue.folder.with_name("away"))
    assert not [name for name in scraped(metrics) if "queue" in name]


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve"],
        ["serve", "--queue", "q", "--workers", "0"],
        ["serve", "--queue", "q", "--metrics", "9748"],
        ["serve", "--queue", "q", "--metrics", "host:99999"],
        ["serve", "--queue", "q", "--", "--nonsense"],
        ["serve", "--queue", "q", "--", "--workdir", "/tmp"],
        ["serve", "--queue", "q", "--", "--goa=x"],
        ["submit", "--queue", "q"],
    ],
)
def test_usage_errors(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad command line ends with 2 before a folder is made."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("goal", ["", "x" * 1001, "\udc80"])
def test_a_goal_that_no_worker_would_take_is_refused(
    goal: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The submitter learns of it, and not only the reader of failed/."""
    assert main(["submit", "--queue", str(tmp_path / "q"), "--goal", goal]) == 1
    assert capsys.readouterr().err.startswith("whyidle-agent: not a task: ")


def test_an_address_in_use_is_one_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`serve` that cannot be scraped does not start."""
    import socket  # noqa: PLC0415

    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
        try:
            assert main(["serve", "--queue", str(tmp_path / "q"), "--metrics", address]) == 1
        finally:
            for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
                signal.signal(number, handler)
    assert capsys.readouterr().err.splitlines()[-1] == "  give another --metrics HOST:PORT"


@pytest.mark.model
def test_real_agents_work_a_real_queue_off(tmp_path: Path) -> None:
    """Two workers, three tasks, a model each: all done, scraped as done; SIGTERM ends it with 0."""
    from urllib.request import urlopen  # noqa: PLC0415

    spool, log = tmp_path / "spool", tmp_path / "log"
    agent = BIN / "whyidle-agent"
    for number in range(3):
        subprocess.run(
            [agent, "submit", "--queue", spool, "--goal", f"goal {number}", "--loops", "3"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    with SearchServer(tmp_path, 0.01) as search, log.open("w") as out:
        serving = subprocess.Popen(
            [
                *(agent, "serve", "--queue", spool, "--workers", "2", "--metrics", "127.0.0.1:0"),
                *("--", "--search-url", search.url, "--queries", "1"),
            ],
            stderr=out,
        )
        try:
            queue = Queue(spool)
            wait_until(lambda: queue.counts()["done"] == 3 or serving.poll() is not None, "the tasks", 90)
            address = log.read_text().split("metrics on ")[1].split()[0]
            with urlopen(address) as answer:
                assert b'whyidle_agent_queue_tasks{state="done"} 3.0' in answer.read()
        finally:
            serving.terminate()
        assert serving.wait(timeout=30) == 0
    for path in (spool / "done").iterdir():
        found = json.loads(path.read_text())
        assert (found["outcome"], found["steps"], found["attempts"]) == ("finished", 3, 1)
        assert (spool / "work" / found["task"] / "history.jsonl").exists()
