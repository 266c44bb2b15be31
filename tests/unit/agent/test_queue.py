"""The queue in a folder: who has a task, what is abandoned, and what hostile files do to it."""

import errno
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from harness import wait_until
from whyidle_agent import queue as queue_module
from whyidle_agent.errors import AgentError
from whyidle_agent.queue import BadTaskError, Claim, Queue, QueuedTask

CLAIM_AND_HANG = """
import pathlib, sys, time
from whyidle_agent.queue import Queue
claim = Queue(pathlib.Path(sys.argv[1])).claim()
claim.begin()
print(claim.name, flush=True)
time.sleep(600)
"""
CLAIM_ALL = """
import pathlib, sys
from whyidle_agent.queue import Queue
queue = Queue(pathlib.Path(sys.argv[1]))
sys.stdin.readline()
while (claim := queue.claim()) is not None:
    print(claim.name)
    claim.finish("done", {})
"""


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return Queue(tmp_path / "queue")


def taken(queue: Queue) -> Claim:
    claim = queue.claim()
    assert claim is not None
    return claim


def test_tasks_come_in_order_and_only_once(queue: Queue) -> None:
    """The oldest first; who holds one keeps it from all others, also in the same process."""
    names = [queue.submit(QueuedTask(f"goal {number}", seed=number)) for number in range(3)]
    claims = [taken(queue) for _ in names]
    assert [claim.name for claim in claims] == [f"{name}.json" for name in names]
    assert [claim.task().seed for claim in claims] == [0, 1, 2]
    assert queue.claim() is None
    assert queue.counts() == {"waiting": 0, "running": 3, "done": 0, "failed": 0}
    claims[0].finish("done", {"steps": 4})
    claims[1].finish("failed", {"reason": "no"})
    claims[2].give_back(counts=True)
    assert queue.counts() == {"waiting": 1, "running": 0, "done": 1, "failed": 1}
    result = json.loads((queue.folder / "done" / claims[0].name).read_text())
    assert (result["task"], result["steps"]) == (names[0], 4)


def test_every_task_goes_to_exactly_one_of_many_processes(queue: Queue) -> None:
    """Six processes that claim as fast as they can share 97 tasks without losing or doubling one."""
    names = {f"{queue.submit(QueuedTask('goal'))}.json" for _ in range(97)}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIM_ALL, str(queue.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    for worker in workers:
        assert worker.stdin
        worker.stdin.write("\n")
        worker.stdin.flush()
    seen = Counter(name for worker in workers for name in worker.communicate(timeout=60)[0].split())
    assert set(seen) == names
    assert set(seen.values()) == {1}
    assert queue.counts() == {"waiting": 0, "running": 0, "done": 97, "failed": 0}


def test_a_killed_worker_leaves_its_task_to_others(queue: Queue) -> None:
    """After SIGKILL the task is free at once, with its attempt counted; before, it is not."""
    queue.submit(QueuedTask("goal"))
    worker = subprocess.Popen(
        [sys.executable, "-c", CLAIM_AND_HANG, str(queue.folder)], stdout=subprocess.PIPE, text=True
    )
    with worker:
        assert worker.stdout
        name = worker.stdout.readline().strip()
        assert queue.claim() is None
        worker.kill()
        worker.wait()
    claim = taken(queue)
    assert claim.name == name
    assert claim.begin() == 2


def test_a_task_is_not_abandoned_while_its_run_lives(queue: Queue) -> None:
    """The run holds the lock too: a worker that dies does not get its run a twin in the same folder."""
    queue.submit(QueuedTask("goal"))
    claim = taken(queue)
    with subprocess.Popen(["sleep", "600"], pass_fds=(claim.lock,)) as run:
        os.close(claim.lock)  # what the death of the worker does
        assert queue.claim() is None
        run.kill()
        run.wait()
        wait_until(lambda: queue.claim() is not None, "the task")


def test_a_result_is_kept_when_the_worker_dies_before_its_last_step(queue: Queue) -> None:
    """A task whose result is written is not run again."""
    queue.submit(QueuedTask("goal"))
    claim = taken(queue)
    (queue.folder / "done" / claim.name).write_text("{}")
    os.close(claim.lock)
    assert queue.claim() is None
    assert queue.counts() == {"waiting": 0, "running": 0, "done": 1, "failed": 0}


def test_a_task_given_back_politely_was_not_tried(queue: Queue) -> None:
    """A shutdown costs no attempt, a failure does."""
    queue.submit(QueuedTask("goal"))
    numbers = []
    for counts in (False, True, False, True):
        claim = taken(queue)
        numbers.append(claim.begin())
        claim.give_back(counts=counts)
    assert numbers == [1, 1, 2, 2]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"goal": ""}',
        b'{"goal": 7}',
        b'{"goal": "x", "loops": 0}',
        b'{"goal": "x", "loops": 1e9}',
        b'{"goal": "x", "seed": -1}',
        b'{"goal": "x", "model": "/etc/shadow"}',
        b'{"goal": "\\u0000"}',
        b'{"goal": "\\ud800"}',
        b'{"goal": "\xff"}',
        b"[" * 10_000,
        b'{"goal": "' + b"x" * 20_000 + b'"}',
    ],
)
def test_a_bad_task_is_refused_with_a_reason(queue: Queue, data: bytes) -> None:
    """Whatever somebody writes into waiting/ is one clear line, and no option of the run."""
    (queue.folder / "waiting" / "bad.json").write_bytes(data)
    with pytest.raises(BadTaskError) as error:
        taken(queue).task()
    assert len(str(error.value)) < 250
    assert str(error.value).isprintable()


def test_what_is_no_file_is_no_task(queue: Queue, tmp_path: Path) -> None:
    """Links, FIFOs, folders and half-written files are neither taken nor followed, and block nobody."""
    waiting = queue.folder / "waiting"
    secret = tmp_path / "secret.json"
    secret.write_text('{"goal": "x"}')
    (waiting / "link.json").symlink_to(secret)
    (waiting / "folder.json").mkdir()
    (waiting / ".half.json").write_text('{"goal": "x"}')
    (waiting / "name with\nnewline.json").write_text('{"goal": "x"}')
    os.mkfifo(waiting / "fifo.json")
    name = queue.submit(QueuedTask("goal"))
    assert taken(queue).name == f"{name}.json"
    assert queue.claim() is None
    assert secret.exists()


def test_a_disk_that_takes_half_of_a_task_takes_none(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short write is gone on with; when there is no room for the rest, the submission fails, traceless."""
    write, left = os.write, iter([True, False])

    def half(file: int, data: bytes) -> int:
        if next(left, False):
            return write(file, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(queue_module.os, "write", half)
    with pytest.raises(AgentError, match="No space left"):
        queue.submit(QueuedTask("goal"))
    assert list((queue.folder / "waiting").iterdir()) == []


def test_a_queue_is_bounded(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can submit more than a folder can hold well."""
    monkeypatch.setattr(queue_module, "MAX_WAITING", 2)
    queue.submit(QueuedTask("a"))
    queue.submit(QueuedTask("b"))
    with pytest.raises(AgentError, match="2 tasks are waiting"):
        queue.submit(QueuedTask("c"))


def test_old_results_go_with_their_files(queue: Queue) -> None:
    """Results older than asked for are removed, work folder and all; younger ones and other tasks stay."""
    for _ in range(3):
        queue.submit(QueuedTask("goal"))
    old, young, running = taken(queue), taken(queue), taken(queue)
    for claim in (old, young, running):
        claim.begin()
    old.finish("done", {})
    young.finish("failed", {})
    os.utime(queue.folder / "done" / old.name, (1, 1))
    assert queue.prune(3600) == 1
    assert queue.counts() == {"waiting": 0, "running": 1, "done": 0, "failed": 1}
    assert not old.folder.exists()
    assert young.folder.exists()
    assert running.folder.exists()


def test_an_unusable_folder_is_one_error(tmp_path: Path) -> None:
    """A queue below a file is refused with what to do."""
    (tmp_path / "file").write_text("")
    with pytest.raises(AgentError) as error:
        Queue(tmp_path / "file" / "queue")
    assert "--queue" in error.value.todo
