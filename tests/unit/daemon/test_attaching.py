"""Attaching in a thread: the same results, and an end to waiting."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Sequence

import pytest

from harness import wait_until
from whyidle_daemon import attaching
from whyidle_daemon.attaching import Attaching


def test_results_and_errors_are_those_of_the_call() -> None:
    """Its thread is not to be seen."""

    def attach(kind: str, path: str, offsets: Sequence[int]) -> tuple[int, ...]:
        if kind == "refused":
            raise KeyError(kind)
        if kind == "full":
            raise OSError(errno.EMFILE, "too many")
        if kind == "mistake":
            raise ZeroDivisionError
        return (len(path), *offsets)

    calls = Attaching(attach)
    assert calls("llama", "abc", [1, 2]) == (3, 1, 2)
    with pytest.raises(KeyError):
        calls("refused", "", [])
    with pytest.raises(OSError, match="too many"):
        calls("full", "", [])
    with pytest.raises(OSError):  # noqa: PT011 (which one does not matter)
        calls("mistake", "", [])
    assert calls("llama", "", []) == (0,)
    assert not calls.stuck


def test_what_hangs_is_waited_for_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What it returns in the end is closed: it was told that there is nothing."""
    monkeypatch.setattr(attaching, "LIMIT_S", 0.05)
    goes_on = threading.Event()
    made: list[int] = []

    def attach(kind: str, path: str, offsets: Sequence[int]) -> tuple[int, ...]:
        if kind == "hangs":
            goes_on.wait(60)
        made.append(os.open("/dev/null", os.O_RDONLY))
        return (made[-1],)

    calls = Attaching(attach)
    for _ in range(3):
        with pytest.raises(BlockingIOError):
            calls("hangs", "", [])
        assert calls.stuck
    assert caplog.text.count("no uprobes for now") == 1
    goes_on.set()
    wait_until(lambda: not calls.stuck, "the call to return")
    (late,) = calls("lookup", "", [])
    assert len(made) == 2  # the two calls between were not made
    assert late == made[1]
    os.close(late)
    if made[0] != late:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(made[0])


def test_without_room_for_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again with the next one."""
    calls = Attaching(lambda *_: (1,))

    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(BlockingIOError):
            calls("llama", "", [])
    assert calls("llama", "", []) == (1,)
