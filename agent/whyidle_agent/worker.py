"""Workers: each takes one task after the other from a queue and runs it as a process of its own.

A process for each task, because a model's library that crashes, memory that runs out or a run that hangs
then costs one attempt and not the worker. The model is loaded anew for each, from the page cache if it is
used often.
"""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from whyidle_agent.queue import BadTaskError, Claim, Queue
from whyidle_agent.text import one_line

_STOPPED = "stopped"
_LOG_TAIL = 2000
_MOST_PAUSE_S = 60.0
_PRUNE_EVERY_S = 600.0


@dataclass(frozen=True)
class Policy:
    """How tasks are run. Seconds, numbers; `options`: handed to `whyidle-agent run` as they are."""

    options: Sequence[str] = ()
    attempts: int = 3
    timeout_s: float = 3600.0
    poll_s: float = 1.0
    grace_s: float = 10.0  # from the request to stop until the kill
    keep_s: float = 7 * 86400.0


class Worker:
    """One worker. `command` runs a task: `whyidle-agent run`, as it is called here.

    `told` gets a line for each thing that happens, `ended` how each run ended and its seconds.
    """

    def __init__(
        self,
        queue: Queue,
        policy: Policy,
        stop: threading.Event,
        command: Sequence[str],
        *,
        told: Callable[[str], None],
        ended: Callable[[str, float], None],
    ) -> None:
        self._queue = queue
        self._policy = policy
        self._stop = stop
        self._told = told
        self._ended = ended
        self._command = command
        self._pruned = -_PRUNE_EVERY_S

    def serve(self) -> None:
        """Work until asked to stop: the task in hand is then given back, and does not count as tried."""
        failures = 0
        while not self._stop.is_set():
            claim = None
            try:
                self._prune()
                claim = self._queue.claim()
                worked = None if claim is None else self._work(claim)
            except OSError as error:
                self._told(f"the queue cannot be used: {error.strerror}")
                worked = False
                if claim is not None:
                    claim.give_back(counts=True)
            failures = failures + 1 if worked is False else 0
            if not worked:
                # Longer with every failure in a row: a host on which nothing runs must not use up the queue.
                self._stop.wait(min(self._policy.poll_s * 2 ** min(failures, 16), _MOST_PAUSE_S))

    def _prune(self) -> None:
        if time.monotonic() - self._pruned >= _PRUNE_EVERY_S:
            self._pruned = time.monotonic()
            self._queue.prune(self._policy.keep_s)

    def _work(self, claim: Claim) -> bool:
        """Run one task; gives whether it was a success, or at least not this host's fault."""
        name = claim.name.removesuffix(".json")
        try:
            task = claim.task()
        except BadTaskError as error:
            self._told(f"{name}: refused: {error}")
            claim.finish("failed", {"reason": str(error), "attempts": 0})
            self._ended("failed", 0.0)
            return True
        attempt = claim.begin()
        if attempt > self._policy.attempts:  # each of them took its worker with it
            return self._failed(claim, "every worker that tried it died", attempt - 1, 0.0)
        self._told(f"{name}: attempt {attempt} of {self._policy.attempts}")
        stats = claim.folder / "stats.json"
        stats.unlink(missing_ok=True)
        given = [f"--goal={task.goal}", "--loops", str(task.loops), "--seed", str(task.seed)]
        given += ["--workdir", str(claim.folder), "--stats", str(stats), *self._policy.options]
        started = time.monotonic()
        with (claim.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [*self._command, *given],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(claim.lock,),
                start_new_session=True,  # Ctrl-C is for the worker, who tells it
            )
            why = self._wait(process, started + self._policy.timeout_s)
        seconds = time.monotonic() - started
        if process.returncode == 0:
            result = {"attempts": attempt, **_account(stats)}
            claim.finish("done", result)
            self._told(f"{name}: {result.get('outcome', 'ended')} after {seconds:.1f} s")
            self._ended("done", seconds)
            return True
        if why == _STOPPED:
            claim.give_back(counts=False)
            self._told(f"{name}: given back")
            return True
        why = why or _reason(process.returncode, claim)
        if attempt >= self._policy.attempts:
            return self._failed(claim, why, attempt, seconds)
        claim.give_back(counts=True)
        self._told(f"{name}: attempt {attempt} failed: {why}")
        self._ended("retried", seconds)
        return False

    def _failed(self, claim: Claim, why: str, attempts: int, seconds: float) -> bool:
        claim.finish("failed", {"reason": why, "attempts": attempts})
        self._told(f"{claim.name.removesuffix('.json')}: failed: {why}")
        self._ended("failed", seconds)
        return False

    def _wait(self, process: "subprocess.Popen[bytes]", deadline: float) -> str:
        """Wait for the run's end, and see to it; gives why it was ended, empty when it ended by itself."""
        tick = min(0.1, self._policy.poll_s)
        while True:
            try:
                process.wait(timeout=tick)
                return ""
            except subprocess.TimeoutExpired:
                if self._stop.is_set() or time.monotonic() > deadline:
                    break
        why = _STOPPED if self._stop.is_set() else f"it took longer than {self._policy.timeout_s:g} s"
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=self._policy.grace_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return why


def _account(path: Any) -> dict[str, Any]:
    """Return what the run says of itself, of what a result has room for."""
    try:
        stats = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    wanted = ("outcome", "steps", "tokens", "wall_s", "inference_s", "tools_s")
    return {key: stats[key] for key in wanted if key in stats} if isinstance(stats, dict) else {}


def _reason(status: int, claim: Claim) -> str:
    if status < 0:
        return f"ended by {signal.Signals(-status).name}"
    with (claim.folder / "log").open("rb") as log:
        log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_TAIL))
        lines = log.read().decode("utf-8", "replace").splitlines()
    errors = [line for line in lines if line.startswith("whyidle-agent: ")]
    said = errors[-1].removeprefix("whyidle-agent: ") if errors else next(reversed(lines), "")
    return f"exit status {status}: {one_line(said, 200)}"
