"""When discovery looks, on the loop that the daemon uses."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import uvloop

from whyidle_daemon.config import Discovery as DiscoveryConfig
from whyidle_daemon.config import Rule
from whyidle_daemon.discovery import watcher as module
from whyidle_daemon.discovery.found import Found
from whyidle_daemon.discovery.placement import NOWHERE
from whyidle_daemon.discovery.watcher import LOOKING_S, TURN_S, Discovery
from whyidle_daemon.proc import Proc
from whyidle_daemon.reading_guard import UNGUARDED


def watcher() -> Discovery:
    """One that finds nothing."""
    kernel = SimpleNamespace(noticed=list, notice=lambda on: None)
    nothing = cast("Any", None)
    return Discovery(DiscoveryConfig(), cast("Any", SimpleNamespace(kernel=kernel)), nothing, nothing, 1)


@pytest.mark.parametrize("run", [uvloop.run, asyncio.run])
def test_noticed_while_a_look_is_due_at_once(run: Any) -> None:
    """One look for both. uvloop's handle of what is due at once does not tell when that is."""

    async def scene() -> int:
        found = watcher()
        turns: list[None] = []
        ran = asyncio.Event()
        turn = found._turn

        def counted() -> None:
            turns.append(None)
            turn()
            ran.set()

        found._turn = counted  # type: ignore[method-assign]
        found.look_at([])
        found._on_noticed()
        await ran.wait()
        found.close()
        return len(turns)

    assert run(scene()) == 1


def test_a_hundred_reloads_leave_one_timer() -> None:
    """Each looks at once, in place of the turn that was due and not beside it, for ever."""

    async def scene() -> int:
        found = watcher()
        looks: list[int] = []

        def look(pid: int) -> bool:
            looks.append(pid)
            return False

        found._look = look  # type: ignore[method-assign]
        turns: list[None] = []
        turn = found._turn

        def counted() -> None:
            turns.append(None)
            turn()

        found._turn = counted  # type: ignore[method-assign]
        due = asyncio.get_running_loop().time() + TURN_S
        found._put(7, due, 0)
        for _ in range(100):
            turn()  # as a reload does
        while not looks:
            await asyncio.sleep(TURN_S / 10)
        await asyncio.sleep(TURN_S)
        found.close()
        assert looks == [7]
        return len(turns)

    assert uvloop.run(scene()) <= 2  # the second, if the first came a moment before it was due


def test_a_turn_ends_although_looks_are_long() -> None:
    """What is left is looked at in the turns after, and the loop does other things in between."""

    async def scene() -> list[int]:
        found = watcher()
        looks: list[int] = []

        def look(pid: int) -> bool:
            looks.append(pid)
            end = time.monotonic() + LOOKING_S
            while time.monotonic() < end:
                pass
            return False

        found._look = look  # type: ignore[method-assign]
        found.look_at([1, 2, 3])
        turns = []
        while len(looks) < 3:
            await asyncio.sleep(0)
            turns.append(len(looks))
        found.close()
        return turns

    assert {1, 2} <= set(uvloop.run(scene()))


class Crowd(Proc):
    """A host with more processes than the queue has room for: kernel threads, then programs."""

    def __init__(self, kernel_threads: int, programs: int) -> None:
        super().__init__()
        self._last = kernel_threads + programs
        self._first = kernel_threads + 1

    def initial_namespace(self) -> bool:
        return True

    def pids(self) -> list[int]:
        return list(range(1, self._last + 1))

    def program_started(self, pid: int) -> int | None:
        return pid // 7 if pid >= self._first else None


@pytest.mark.parametrize("missed", [False, True])
def test_of_a_crowd_everybody_is_looked_at(monkeypatch: pytest.MonkeyPatch, missed: bool) -> None:
    """In as many parts as it takes, kernel threads in none; and then no more, but where one was missed."""
    monkeypatch.setattr(module, "RESCAN_S", 0.0)
    monkeypatch.setattr(module, "TURN_S", 0.0)
    monkeypatch.setattr(module, "MAX_QUEUE", 16)

    async def scene() -> list[int]:
        found = watcher()
        host = Crowd(20, 100)
        found._proc = host
        looks: list[int] = []

        def look(pid: int) -> bool:
            looks.append(pid)
            if missed and len(looks) == 50:
                found._missed = True
            return False

        found._look = look  # type: ignore[method-assign]
        found.start()
        for _ in range(1000):
            await asyncio.sleep(0)
        assert found._timer is None
        found.close()
        return looks

    programs = list(range(21, 121))
    assert uvloop.run(scene()) == programs * (2 if missed else 1)


def test_a_queue_that_is_full_at_a_reload_is_gone_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESCAN_S", 0.0)
    monkeypatch.setattr(module, "TURN_S", 0.0)
    monkeypatch.setattr(module, "MAX_QUEUE", 4)

    async def scene() -> set[int]:
        found = watcher()
        found._proc = Crowd(0, 10)
        looks: set[int] = set()

        def look(pid: int) -> bool:
            looks.add(pid)
            return False

        found._look = look  # type: ignore[method-assign]
        for pid in range(100, 104):
            found._put(pid, 0.0, 0)
        found.start()
        for _ in range(1000):
            await asyncio.sleep(0)
        found.close()
        return looks

    assert uvloop.run(scene()) == {*range(1, 11), *range(100, 104)}


def test_kernel_threads_are_told_apart(tmp_path: Path) -> None:
    for pid, flags in ((2, 0x00208040), (7, 0x00400000)):
        (tmp_path / str(pid)).mkdir()
        words = ["S", "0", "0", "0", "0", "-1", str(flags), *("0",) * 12, "77", "0", "0"]
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (a) b) " + " ".join(words))
    proc = Proc(tmp_path)
    assert [proc.program_started(pid) for pid in (2, 7, 9)] == [None, 77, None]


AGENT = Rule("agent", executable=["agent*"])


@pytest.mark.parametrize(
    ("root", "rules", "stays"),
    [
        ("there", [AGENT], True),
        ("there", [Rule("other name", executable=["agent*"])], True),
        ("there", [Rule("agent", executable=["else*"])], False),
        ("gone", [AGENT], True),
        ("gone", [AGENT, Rule("more", executable=["x"])], True),
        ("gone", [Rule("agent", executable=["else*"])], False),
        ("gone", [Rule("agent", executable=["agent*"], ignore=True)], False),
        ("gone", [], False),
        ("another's", [AGENT], True),
        ("another's", [], False),
    ],
)
def test_a_reload_ends_what_no_rule_names(tmp_path: Path, root: str, rules: list[Rule], stays: bool) -> None:
    """A tree whose root has ended goes on as long as the rule that found it is the same."""
    if root != "gone":
        folder = tmp_path / "42"
        folder.mkdir()
        (folder / "exe").symlink_to("/usr/bin/agent" if root == "there" else "/bin/sh")
        words = ["S", *"00000", "0", *("0",) * 12, "77" if root == "there" else "99", "0", "0"]
        (folder / "stat").write_text("42 (agent) " + " ".join(words))

    async def scene() -> list[object]:
        watched = watcher()
        watched._targets.guard = UNGUARDED
        watched._set(DiscoveryConfig(defaults=False, rule=[AGENT]))
        watched._proc = Proc(tmp_path)
        watched._look = lambda pid: False  # type: ignore[method-assign]
        stopped: list[object] = []
        watched._sessions = cast("Any", SimpleNamespace(stop=stopped.append))
        found = Found(42, 0, "root", ("agent",), NOWHERE, "agent", 77)
        watched._found[1] = (found, cast("Any", "its session"))
        watched.reload(DiscoveryConfig(defaults=False, rule=rules))
        watched.close()
        return stopped

    assert uvloop.run(scene()) == ([] if stays else ["its session"])


def test_a_look_that_fails_ends_neither_the_turn_nor_discovery(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The others are looked at, this one again, and each kind of mistake is told once."""
    monkeypatch.setattr(module, "AGAIN_S", (0.0,))
    monkeypatch.setattr(module, "TURN_S", 0.01)
    looks: list[int] = []

    def look(pid: int) -> bool:
        looks.append(pid)
        if pid < 3:
            raise RuntimeError("can't start new thread")
        return False

    async def scene() -> None:
        found = watcher()
        found._look = look  # type: ignore[method-assign]
        found.look_at([1, 2, 3])
        await asyncio.sleep(0.1)
        assert found._timer is None
        found.close()

    uvloop.run(scene())
    assert sorted(looks) == [1, 1, 2, 2, 3]
    assert caplog.text.count("discovery goes on") == 1


def test_what_was_noticed_when_the_kernel_failed_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of /proc is looked through then, a while later."""
    monkeypatch.setattr(module, "RESCAN_S", 0.0)
    monkeypatch.setattr(module, "TURN_S", 0.01)
    fails = [OSError("no"), OSError("no")]
    turns: list[None] = []

    def noticed() -> list[int]:
        turns.append(None)
        if fails:
            raise fails.pop()
        return []

    async def scene() -> set[int]:
        found = watcher()
        found._targets.kernel.noticed = noticed  # type: ignore[method-assign]
        found._proc = Crowd(0, 3)
        looks: set[int] = set()

        def look(pid: int) -> bool:
            looks.add(pid)
            return False

        found._look = look  # type: ignore[method-assign]
        found.look_at([1])  # which is due at once: not so often, for all that
        await asyncio.sleep(0.2)
        found.close()
        return looks

    assert uvloop.run(scene()) == {1, 2, 3}
    assert len(turns) < 20
