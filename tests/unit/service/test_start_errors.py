"""With which status the daemon ends that could not load its probes: systemd tries again, or does not."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import uvloop

from whyidle_daemon import main as module
from whyidle_daemon.config import MAX_THREADS, Config
from whyidle_daemon.errors import StartError
from whyidle_probes.loader import LoaderError

CANNOT = "the kernel does not let this process make the map threads: "


def ended(monkeypatch: pytest.MonkeyPatch, error: LoaderError, *arguments: str) -> StartError:
    def load(config: Any) -> None:
        raise error

    monkeypatch.setattr(module, "load_probes", load)
    options = module._parser().parse_args(list(arguments))
    with pytest.raises(StartError) as caught:
        uvloop.run(module._serve(options, Config()))
    return caught.value


@pytest.mark.parametrize(
    ("code", "message", "status"),
    [
        ("no_btf", "no types", 3),
        ("too_old", "no ring buffers", 3),
        ("no_permission", CANNOT + os.strerror(errno.EPERM), 3),
        ("verifier", "refused", 3),
        ("no_permission", CANNOT + os.strerror(errno.ENOMEM), 1),
        ("crashed", "the loader did not finish", 1),
        ("no_bcc", "no bcc", 1),
        ("no_python", "did not start: " + os.strerror(errno.EAGAIN), 1),
        ("of a later version", "unknown", 1),
    ],
)
def test_what_may_pass_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str, message: str, status: int
) -> None:
    """Status 3 keeps systemd from that: for what stays as it is."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    socket = tmp_path / "s"
    error = ended(monkeypatch, LoaderError(code, message, "mend it"), "--socket", str(socket))
    assert (str(error), error.fix, error.code) == (message, "mend it", status)
    assert not socket.exists()


def test_nobody_tries_again_for_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """whyidle run shows what its private daemon says, with the reason and what to do, where that is 3."""
    assert ended(monkeypatch, LoaderError("no_bcc", "no bcc", "get it"), "--connection-fd", "9").code == 3


def test_a_try_of_systemds_is_not_made_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A host without bcc is not to start Python twice a second for ever."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(module.asyncio, "sleep", sleep)
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere")
    for code in ("no_bcc", "no_btf"):
        ended(monkeypatch, LoaderError(code, "no", "mend it"), "--socket", str(tmp_path / code))
    assert waits == [module.TRY_AGAIN_S]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen(1)
        never = LoaderError("no_bcc", "nothing is loaded", "")
        error = ended(monkeypatch, never, "--socket", str(tmp_path / "s"))
    assert "another whyidled" in str(error)  # which may serve for ever
    assert waits == [module.TRY_AGAIN_S] * 2


def test_a_reload_that_comes_before_it_serves_does_not_end_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """SIGHUP ends a program that did nothing about it, and for systemd that is an end as it should be."""

    def load(config: Any) -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        raise LoaderError("no_btf", "got as far as this", "")

    monkeypatch.setattr(module, "load_probes", load)
    options = module._parser().parse_args(["--socket", str(tmp_path / "s")])
    with pytest.raises(StartError, match="got as far as this"):
        uvloop.run(module._serve(options, Config()))


def test_in_the_journal_why_it_ends_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """``journalctl -p err`` shows it."""
    file = tmp_path / "c.toml"
    file.write_text("[acess]\n")
    about = os.fstat(sys.stderr.fileno())
    for stream, mark in ((f"{about.st_dev}:{about.st_ino}", "<3>"), ("1:1", "")):
        monkeypatch.setenv("JOURNAL_STREAM", stream)
        assert module.main(["--config", str(file)]) == 2
        said = capfd.readouterr().err.splitlines()
        assert len(said) == 2
        assert said[0].startswith(f"{mark}whyidled: ")
        assert said[1].startswith(f"{mark}  ")


def test_more_threads_than_fit_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.toml"
    file.write_text(f"[daemon]\nmax_threads = {MAX_THREADS + 1}\n")
    assert module.main(["--check-config", "--config", str(file)]) == 2
    assert f"daemon.max_threads: expected int <= {MAX_THREADS}" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        module.main(["--check-config", "--max-threads", str(MAX_THREADS + 1)])
    assert f"must be between 1 and {MAX_THREADS}" in capsys.readouterr().err
