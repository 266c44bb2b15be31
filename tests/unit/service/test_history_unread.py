"""A history whose folder cannot be read just now: that costs a removal, and nothing else of the daemon."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from typing import Any, cast

import pytest

from whyidle_daemon import main as module
from whyidle_daemon.config import History
from whyidle_daemon.history.keeper import Keeper
from whyidle_daemon.history.store import FOLDER


def no(path: Any) -> Any:
    raise OSError(errno.EIO, "Input/output error", str(path))


def test_a_folder_that_cannot_be_read_is_said_once_and_read_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It ended the start, the hourly removal for good, and a reload in the middle."""

    async def scene() -> None:
        keeper = Keeper(tmp_path, History(), cast(Any, []))
        old = tmp_path / FOLDER / "20200101T000000Z-1-1.rec"
        old.write_bytes(bytes(40 << 20))
        scandir = os.scandir
        monkeypatch.setattr("os.scandir", no)
        keeper.start()
        assert keeper._timer is not None
        keeper.configure(History(max_megabytes=32))
        assert old.exists()
        monkeypatch.setattr("os.scandir", scandir)
        keeper._store.prune()
        assert not old.exists()
        keeper.close()

    asyncio.run(scene())
    assert caplog.text.count("Input/output error") == 1


def test_a_reload_that_fails_is_over_for_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for READY=1 after RELOADING=1, and would end the service."""
    said: list[str] = []
    monkeypatch.setattr(module, "notify", lambda *lines: said.extend(lines))
    monkeypatch.setattr(module, "reloading", lambda: said.append("RELOADING=1"))
    monkeypatch.setattr(module, "_configured", no)
    nothing: Any = None
    with pytest.raises(OSError, match="Input/output"):
        module._reload(nothing, nothing, nothing)
    assert said == ["RELOADING=1", "READY=1"]
