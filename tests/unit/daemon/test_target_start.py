"""An observation that cannot begin leaves nothing behind that another could not observe."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from whyidle_daemon import targets as module
from whyidle_daemon.kernel import Kernel
from whyidle_daemon.targets import Targets
from whyidle_probes.events import Event


class Table(dict[bytes, bytes]):
    """A map of the kernel side with room for so many entries."""

    def __init__(self, room: int = 100) -> None:
        super().__init__()
        self.room = room

    def set(self, key: bytes, value: bytes) -> None:
        if key not in self and len(self) >= self.room:
            raise OSError(errno.E2BIG, "Argument list too long")
        self[key] = value

    def delete(self, key: bytes) -> bool:
        return self.pop(key, None) is not None

    def items(self) -> Iterator[tuple[bytes, bytes]]:  # type: ignore[override]
        return iter(list(super().items()))


class Tables(Kernel):
    """A kernel side of which there are only the tables; ``fails`` is raised where tasks are walked."""

    def __init__(self, room: int, fails: BaseException | None = None) -> None:
        self._processes, self._threads, self._engines = cast(Any, (Table(room), Table(), Table()))
        self._notes, self._notes_wanted = None, cast(Any, Table())
        self.fails = fails
        self._probes = cast(Any, SimpleNamespace(link=self._walk))

    def _walk(self, name: str) -> int:
        if self.fails is not None:
            raise self.fails
        return -1

    def stat(self, which: int) -> int:
        return 0

    def stats(self) -> Any:
        return {}

    def run_ns(self) -> int:
        return 0

    def skipped(self) -> int:
        return 0

    def attach_functions(self, kind: str, path: str, offsets: Any) -> tuple[int, ...]:
        return ()


def kernel_of(room: int, fails: BaseException | None) -> Callable[[Callable[[Event], None]], Kernel]:
    return lambda on_event: Tables(room, fails)


@pytest.mark.parametrize(
    ("room", "fails"),
    [(2, None), (100, OSError(errno.EMFILE, "Too many open files")), (100, KeyboardInterrupt())],
    ids=["table is full", "no descriptors", "interrupted"],
)
def test_a_start_that_fails_half_way_tracks_nobody(
    monkeypatch: pytest.MonkeyPatch, room: int, fails: BaseException | None
) -> None:
    """Else discovery would take its processes for observed, as long as they live."""
    gpus = SimpleNamespace(add=lambda *_: None, remove=lambda _: None)
    monkeypatch.setattr(module, "GpuWatch", lambda *_: gpus)
    proc: Any = SimpleNamespace(netns=lambda _: 0)
    targets = Targets(kernel_of(room, fails), proc)
    with pytest.raises((OSError, KeyboardInterrupt)):
        targets.start((101, 102, 103), ("x",))
    assert len(targets) == 0
    assert [targets.kernel.target_of(pid) for pid in (101, 102, 103)] == [None] * 3
    assert struct.pack("<I", 101) not in cast(Any, targets.kernel)._processes
