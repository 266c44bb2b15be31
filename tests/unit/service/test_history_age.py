"""Which recordings are too old, whatever someone does to the clock."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whyidle_daemon.config import History
from whyidle_daemon.history import kept_time
from whyidle_daemon.history.age import AGREE_S, CATCH_UP, SAME_S, Age
from whyidle_daemon.history.store import FOLDER, Store, parts

NOW = 1_800_000_000.0
HOUR, DAY = 3600.0, 86400.0


class Host:
    """Its clocks, and a history in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.true_s, self.wrong_s, self.boot_s = NOW, 0.0, 100.0
        self.start()

    def start(self) -> None:
        """Another daemon."""
        self.store = Store(self.folder, History(), lambda: self.true_s + self.wrong_s, lambda: self.boot_s)

    def write(self, pid: int, age_s: float = 0.0) -> None:
        path = self.folder / FOLDER / f"20270101T000000Z-{pid}-1.rec"
        path.touch()
        os.utime(path, (self.true_s + self.wrong_s - age_s,) * 2)

    def go_on(self, seconds: float, every_s: float = HOUR) -> None:
        for _ in range(round(seconds / every_s)):
            self.true_s += every_s
            self.boot_s += every_s
            self.store.prune()

    def off(self, seconds: float, wrong_s: float = 0.0) -> None:
        """Boot again after a while, with the clock wrong by so much."""
        self.true_s += seconds
        self.wrong_s, self.boot_s = wrong_s, 10.0
        self.start()
        self.store.prune()

    @property
    def left(self) -> set[int]:
        return {part.pid for part in parts(self.folder / FOLDER)}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_in_normal_life_the_age_is_kept_to(host: Host) -> None:
    """Seven days, and also over restarts of daemon and host."""
    host.write(1)
    host.go_on(6 * DAY)
    host.write(2)
    host.off(600)
    assert host.left == {1, 2}
    host.go_on(DAY)
    assert host.left == {2}
    host.start()
    host.go_on(6 * DAY)
    assert host.left == set()


@pytest.mark.parametrize("wrong_s", [8 * DAY, 40 * 365 * DAY, -40 * 365 * DAY])
@pytest.mark.parametrize("boot", [False, True])
def test_a_wrong_clock_that_is_set_right_costs_nothing(host: Host, wrong_s: float, boot: bool) -> None:
    """While it runs, or as it boots; also if the daemon is restarted meanwhile, and writes meanwhile."""
    for pid, age_s in ((1, 6 * DAY), (2, HOUR)):
        host.write(pid, age_s)
    host.go_on(HOUR)
    if boot:
        host.off(600, wrong_s)
    host.wrong_s = wrong_s
    host.go_on(HOUR / 2, 60.0)
    output = host.store.new(3)
    assert output is not None
    output.close(5)
    stamp = host.true_s + wrong_s  # as a file system would, which has the same clock
    os.utime(output.path, (stamp, stamp))
    host.go_on(60, 60.0)
    host.start()
    host.go_on(HOUR / 4, 60.0)
    host.wrong_s = 0.0
    host.go_on(2 * HOUR, 60.0)
    assert host.left == {1, 2, 3}
    host.go_on(8 * DAY)
    assert host.left == set()  # also what was written in the future


def test_the_first_daemon_that_knows_of_this_asks_the_history(tmp_path: Path) -> None:
    """An upgrade and a boot with a wrong clock in one."""
    host = Host(tmp_path)
    host.write(1)
    assert not (tmp_path / kept_time.NAME).exists()
    host.off(60, 30 * DAY)
    assert host.left == {1}


def test_a_host_that_was_off_catches_up(host: Host) -> None:
    """It keeps what is too old for so long as it could be the clock that is wrong."""
    host.write(1)
    host.off(8 * DAY)
    assert host.left == {1}
    host.go_on(3 * DAY)
    assert host.left == set()


@pytest.mark.parametrize("text", ["", "x", "nan", "-inf", "1e999", "\xff"])
def test_a_kept_time_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / kept_time.NAME).write_text(text)
    host = Host(tmp_path)
    host.write(1, 8 * DAY)
    host.store.prune()
    assert host.left == set()


STEPS = st.lists(st.tuples(st.floats(1, 5 * DAY), st.booleans()), min_size=1, max_size=20)


@given(STEPS, st.floats(-1e9, 1e9))
def test_nothing_is_too_old_before_its_time(steps: list[tuple[float, bool]], wrong_s: float) -> None:
    """By more than what the clock's being wrong may cost; and in the end all that is too old, is."""
    true_s, boot_s = NOW, 0.0
    age = Age(true_s, boot_s)
    wrong_for_s = 0.0
    for seconds, wrong in steps:
        for _ in range(10):
            true_s += seconds / 10
            boot_s += seconds / 10
            wrong_for_s += seconds / 10 if wrong else 0.0
            wall_s = true_s + (wrong_s if wrong else 0.0)
            age.look(wall_s, boot_s)
            assert age.too_old_s(0.0) <= true_s + CATCH_UP * wrong_for_s + 2 * SAME_S
            assert age.too_old_s(0.0) <= wall_s
    apart_s = abs(age.now_s - true_s)
    assert apart_s <= CATCH_UP * wrong_for_s + 2 * SAME_S
    age.look(true_s, boot_s)
    later_s = AGREE_S + apart_s / CATCH_UP + 2 * SAME_S
    for _ in range(2):  # the first may see a step
        true_s, boot_s = true_s + later_s, boot_s + later_s
        age.look(true_s, boot_s)
    assert age.sure
    assert age.too_old_s(DAY) == true_s - DAY
