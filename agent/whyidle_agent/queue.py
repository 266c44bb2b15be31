"""A queue of tasks in a folder, for any number of workers on any number of hosts that share it.

A task is one JSON file and moves by rename from `waiting/` to `running/` to a result of the same name in
`done/` or `failed/`; `work/NAME/` is the work folder of its run. Who holds the lock (flock) of a task's file
has the task. The kernel, or the NFS server, lets go of a lock when its holders die, so no clock decides
what was abandoned: a file in `running/` that nobody holds. Everything in the folder is untrusted.
"""

import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec

from whyidle_agent.errors import AgentError
from whyidle_agent.text import one_line

STATES = ("waiting", "running", "done", "failed")
MAX_WAITING = 10_000
MAX_TASK_BYTES = 16 << 10
_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,99}\.json")


class QueuedTask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a task file says. `loops`: most steps; `seed`: same seed, same run."""

    goal: Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]
    loops: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 6
    seed: Annotated[int, msgspec.Meta(ge=0, le=(1 << 31) - 1)] = 0


class BadTaskError(Exception):
    """A task file that no attempt can make good; the text says why."""


class Claim:
    """A task that is ours until it is finished or given back, or until all who hold its lock have died."""

    def __init__(self, queue: "Queue", name: str, handle: int) -> None:
        self._queue = queue
        self.name = name
        self.lock = handle  # for a child: while it lives, nobody else takes the task for abandoned
        self.folder = queue.folder / "work" / name.removesuffix(".json")
        self._tries = self.folder / "attempts"  # a byte for each: counted also when the counter dies

    def task(self) -> QueuedTask:
        """Return what is to be done; raises BadTaskError."""
        data = os.pread(self.lock, MAX_TASK_BYTES + 1, 0)
        if len(data) > MAX_TASK_BYTES:
            raise BadTaskError(f"the task is larger than {MAX_TASK_BYTES} bytes")
        try:
            task = msgspec.json.decode(data, type=QueuedTask)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadTaskError(f"not a task: {one_line(str(error), 200)}") from error
        if "\0" in task.goal:
            raise BadTaskError("not a task: a goal with a NUL character")
        return task

    def begin(self) -> int:
        """Count one more attempt, before it is made; returns its number, from 1. Raises OSError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with _opened(self._tries, os.O_WRONLY | os.O_CREAT | os.O_APPEND) as file:
            os.write(file, b"x")
            os.fsync(file)
            return os.fstat(file).st_size

    def finish(self, state: str, result: dict[str, Any]) -> None:
        """Put the result into `done` or `failed`, then take the task out of the queue. Raises OSError."""
        record = {"task": self.name.removesuffix(".json"), "finished_at": _now(), **result}
        _write(self._queue.folder / state / self.name, record)
        (self._queue.folder / "running" / self.name).unlink(missing_ok=True)
        os.close(self.lock)

    def give_back(self, *, counts: bool) -> None:
        """Let others have the task; `counts`: the attempt was one, and not only cut short from outside."""
        with contextlib.suppress(OSError):
            if not counts:
                os.truncate(self._tries, max(0, self._tries.stat().st_size - 1))
        with contextlib.suppress(OSError):  # still in running/, then, with nobody to hold it: the same
            (self._queue.folder / "running" / self.name).rename(self._queue.folder / "waiting" / self.name)
        os.close(self.lock)


class Queue:
    """The folder. Every method may be called by several threads and processes at once."""

    def __init__(self, folder: Path) -> None:
        """Use `folder`, making what is missing; raises AgentError."""
        self.folder = folder
        try:
            for name in (*STATES, "work"):
                (folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise AgentError(
                f"cannot use the queue {folder}: {error.strerror}", "give another folder with --queue DIR"
            ) from error

    def submit(self, task: QueuedTask) -> str:
        """Add a task, on disk when this returns; returns its name. Raises AgentError."""
        try:
            if len(self._names("waiting")) >= MAX_WAITING:
                raise AgentError(
                    f"{MAX_WAITING} tasks are waiting in {self.folder} already",
                    "start more workers: whyidle-agent serve",
                )
            # Names in the order of submission, as far as the clocks of the submitters agree.
            name = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{secrets.token_hex(4)}"
            _write(self.folder / "waiting" / f"{name}.json", msgspec.to_builtins(task))
        except OSError as error:
            raise AgentError(
                f"cannot write to the queue {self.folder}: {error.strerror}",
                "make room, or give another folder with --queue DIR",
            ) from error
        return name

    def claim(self) -> Claim | None:
        """Take the oldest task, an abandoned one first; None: there is none to be had. Raises OSError."""
        for state in ("running", "waiting"):
            for name in self._names(state):
                if (claim := self._take(state, name)) is not None:
                    return claim
        return None

    def counts(self) -> dict[str, int]:
        """Return the number of tasks in each state. Raises OSError: unknown is not 0."""
        return {state: len(self._names(state)) for state in STATES}

    def oldest_s(self) -> float:
        """Return for how long the first waiting task has waited, seconds; 0 when none waits."""
        for name in self._names("waiting"):
            with contextlib.suppress(FileNotFoundError):
                return max(0.0, time.time() - (self.folder / "waiting" / name).lstat().st_mtime)
        return 0.0

    def prune(self, older_s: float) -> int:
        """Remove results older than this with their work folders; returns how many."""
        removed = 0
        for state in ("done", "failed"):
            for name in self._names(state):
                path = self.folder / state / name
                with contextlib.suppress(OSError):
                    if time.time() - path.lstat().st_mtime > older_s:
                        # The folder first: what is interrupted here is then found again by its record.
                        shutil.rmtree(self.folder / "work" / name.removesuffix(".json"), ignore_errors=True)
                        path.unlink()
                        removed += 1
        return removed

    def _names(self, state: str) -> list[str]:
        return sorted(path.name for path in (self.folder / state).iterdir() if _NAME.fullmatch(path.name))

    def _take(self, state: str, name: str) -> Claim | None:
        path, running = self.folder / state / name, self.folder / "running" / name
        try:
            # Not a link; a FIFO does not make us wait. For NFS an exclusive lock needs a file open to write.
            handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            status = os.fstat(handle)
            # Its last holder may have moved it on between our opening and our locking.
            ours = stat.S_ISREG(status.st_mode) and os.path.samestat(status, path.lstat())
            if ours and self._moved(state, path, running):
                return Claim(self, name, handle)
        except OSError:
            pass
        os.close(handle)
        return None

    def _moved(self, state: str, path: Path, running: Path) -> bool:
        """Whether a locked task is in `running/` now and has yet to be done."""
        results = [self.folder / result / path.name for result in ("done", "failed")]
        if state == "waiting":
            if running.exists():  # somebody gave two tasks one name: one after the other
                return False
            for result in results:
                result.unlink(missing_ok=True)  # of an earlier task of this name
            path.rename(running)
        elif any(result.exists() for result in results):
            path.unlink()  # the worker died between its last two steps
            return False
        return True


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    handle = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        yield handle
    finally:
        os.close(handle)


def _write(path: Path, record: dict[str, Any]) -> None:
    """Write a JSON file, whole or not at all, on disk when this returns; raises OSError."""
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with _opened(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as file:
            data = (json.dumps(record) + "\n").encode()
            while data:  # a disk that is nearly full takes a part, and says why only of the rest
                data = data[os.write(file, data) :]
            os.fsync(file)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    with _opened(path.parent, os.O_RDONLY | os.O_DIRECTORY) as folder:
        os.fsync(folder)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
