"""Where the JSON goes: what is never destroyed, and what is written to though it cannot be replaced."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from fake_daemon import COMMAND, SAMPLE

from whyidle_cli.connection import _reason, _scratch
from whyidle_cli.errors import CannotRecord, CannotWrite, CommandNotFound, CommandNotStarted, NoDaemon
from whyidle_cli.launch import HeldChild, find_command
from whyidle_cli.main import main
from whyidle_cli.output import check_target, write_json
from whyidle_cli.recording import check_record
from whyidle_daemon.recording.blocks import MAGIC


@pytest.mark.parametrize("words", [["--json", "a.rec", "b.rec"], ["a.rec", "--json", "a.rec"]])
def test_a_recording_is_never_replaced_by_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    """``--json *.rec`` takes the first one for the place to write to."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.rec", "b.rec"):
        Path(name).write_bytes(MAGIC + b" and the rest")
    assert main(["report", *words]) == 1
    what, fix = capsys.readouterr().err.splitlines()
    assert what == "whyidle: cannot write a.rec: it is a recording, which a report never replaces"
    assert "--json takes a file, no recording" in fix
    assert Path("a.rec").read_bytes() == MAGIC + b" and the rest"


def test_report_and_recording_are_not_one_file(tmp_path: Path) -> None:
    """Neither is there yet; by whatever way the two are the same."""
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(CannotRecord, match="--json names the same file"):
        check_record(tmp_path / "x", tmp_path / "link" / "x")
    assert check_record(tmp_path / "x", tmp_path / "y") == tmp_path / "x"
    assert check_record(tmp_path / "x", None) == tmp_path / "x"


def both(path: Path) -> None:
    check_target(path)
    write_json(SAMPLE, path)


def test_a_pipe_of_the_shell() -> None:
    """``--json >(gzip)``: a name under /dev/fd, whose file has no name."""
    reader, writer = os.pipe()
    with os.fdopen(reader) as pipe:
        both(Path(f"/dev/fd/{writer}"))
        os.close(writer)
        assert json.load(pipe) == SAMPLE


def test_a_file_without_a_name() -> None:
    """What a program keeps for itself, and gives to its child as /dev/fd/N."""
    with tempfile.TemporaryFile() as file:
        both(Path(f"/dev/fd/{file.fileno()}"))
        assert json.load(file) == SAMPLE


def test_standard_output_by_its_name(tmp_path: Path) -> None:
    """Sent to a file, it gets first the one and then the other; the file stays the one it was."""
    out = tmp_path / "out.txt"
    code = (
        "import json, sys; from pathlib import Path; from whyidle_cli.output import check_target, write_json;"
        "path = Path('/dev/stdout'); print('before', flush=True); check_target(path);"
        "write_json({'a': 1}, path); print('after')"
    )
    with out.open("w") as stdout:
        environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
        subprocess.run([sys.executable, "-c", code], stdout=stdout, check=True, env=environment)
    assert out.read_text() == 'before\n{\n  "a": 1\n}\nafter\n'
    assert list(tmp_path.iterdir()) == [out]


def refuse(number: int):  # type: ignore[no-untyped-def]
    def refused(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return refused


@pytest.mark.parametrize(
    ("what", "number"),
    [
        ("tempfile.mkstemp", errno.EACCES),  # a directory of root with a file of ours
        ("pathlib.Path.replace", errno.EBUSY),  # a file that is mounted into a container
        ("os.fchown", errno.EPERM),  # another's file that its group may write
    ],
)
def test_a_file_that_keeps_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, number: int
) -> None:
    """It is written to where it is, with nothing left of what was in it and beside it."""
    path = tmp_path / "r.json"
    path.write_text("x" * 100_000)
    node = path.stat().st_ino
    monkeypatch.setattr(what, refuse(number))
    both(path)
    assert json.loads(path.read_text()) == SAMPLE
    assert path.stat().st_ino == node
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_costs_no_older_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written over before the new one is whole."""
    path = tmp_path / "r.json"
    path.write_text("old")
    monkeypatch.setattr("pathlib.Path.replace", refuse(errno.ENOSPC))
    with pytest.raises(CannotWrite, match="No space left"):
        both(path)
    assert path.read_text() == "old"


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can give files away")
def test_a_file_keeps_its_owner(tmp_path: Path) -> None:
    """Root's report over a user's own file is still the user's."""
    path = tmp_path / "r.json"
    path.touch(0o600)
    os.chown(path, 1234, 2345)
    both(path)
    assert (path.stat().st_uid, path.stat().st_gid, path.stat().st_mode & 0o777) == (1234, 2345, 0o600)
    assert json.loads(path.read_text()) == SAMPLE


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a file of somebody else's")
@pytest.mark.parametrize("planted", ["link", "file"])
def test_what_somebody_laid_out_in_tmp(tmp_path: Path, planted: str) -> None:
    """The kernel's rules for a directory that all may write to hold: root is led to no file of its own."""
    for name in ("symlinks", "regular"):
        if Path(f"/proc/sys/fs/protected_{name}").read_text().strip() == "0":
            pytest.skip(f"fs.protected_{name} is off")
    shared, precious, path = tmp_path / "tmp", tmp_path / "precious", tmp_path / "tmp" / "r.json"
    shared.mkdir()
    shared.chmod(0o1777)
    os.chown(shared, 1233, 1233)
    precious.write_text("precious")
    if planted == "link":
        path.symlink_to(precious)
    else:
        path.touch(0o666)
    os.chown(path, 1234, 1234, follow_symlinks=False)
    with pytest.raises(CannotWrite, match="Permission denied"):
        check_target(path)
    with pytest.raises(CannotWrite, match="Permission denied"):
        write_json(SAMPLE, path)
    assert precious.read_text() == "precious"


def test_the_kernel_follows_links_and_not_we(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the rules above are off, too: what the kernel refuses by the name given is not tried again."""
    (tmp_path / "precious").write_text("precious")
    link = tmp_path / "r.json"
    link.symlink_to(tmp_path / "precious")
    really = os.open

    def opened(path: object, flags: int, *more: int, **others: int) -> int:
        if path == link:
            assert flags & os.O_CREAT
            raise PermissionError(errno.EACCES, "Permission denied")
        return really(path, flags, *more, **others)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", opened)
    for step in (check_target, lambda path: write_json(SAMPLE, path)):
        with pytest.raises(CannotWrite, match="Permission denied"):
            step(link)
    assert (tmp_path / "precious").read_text() == "precious"


def test_links_of_ones_own(tmp_path: Path) -> None:
    """Also one whose file is not there yet; a ring of them is an error before the work."""
    (tmp_path / "link").symlink_to(tmp_path / "new.json")
    both(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert json.loads((tmp_path / "new.json").read_text()) == SAMPLE
    (tmp_path / "ring").symlink_to(tmp_path / "ring")
    with pytest.raises(CannotWrite, match="symbolic links"):
        check_target(tmp_path / "ring")


@pytest.mark.parametrize(("length", "fits"), [(255, True), (256, False)])
def test_long_names(tmp_path: Path, length: int, fits: bool) -> None:
    """As long as the file system allows; longer ones are refused before the work."""
    path = tmp_path / ("x" * length)
    if fits:
        both(path)
        assert json.loads(path.read_text()) == SAMPLE
    else:
        with pytest.raises(CannotWrite, match="File name too long"):
            check_target(path)


def test_names_that_cannot_be_looked_at(tmp_path: Path) -> None:
    """Too long, or beyond what may be searched: an error of two lines, and not Python's."""
    name = "x" * 300
    with pytest.raises(CannotRecord):
        check_record(tmp_path / name / "x.rec")
    (tmp_path / "link").symlink_to(name)
    with pytest.raises(CannotRecord, match="the file exists"):
        check_record(tmp_path / "link")
    with pytest.raises(CommandNotFound):
        find_command(f"./{name}")
    assert "no daemon answers" in str(NoDaemon(Path(name), _reason(Path(f"/tmp/{name}")), private=True))


def test_no_room_for_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nothing is left open, and what to do is not about the program."""
    monkeypatch.setattr(os, "fork", refuse(errno.EAGAIN))
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(CommandNotStarted, match="temporarily unavailable") as caught:
        HeldChild("/bin/true", ["true"])
    assert "ulimit -u" in caught.value.hint
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_no_directory_for_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container that may write nowhere: the words of the daemon are kept in memory."""
    monkeypatch.setattr("tempfile.TemporaryFile", refuse(errno.ENOENT))
    with _scratch() as log:
        subprocess.run(["sh", "-c", "echo last words >&2"], stderr=log, check=True)
        log.seek(0)
        assert log.read() == b"last words\n"


@pytest.mark.parametrize("stderr", [subprocess.PIPE, None])
def test_a_full_disk_is_said_in_two_lines(stderr: int | None) -> None:
    """Also by what is not a report; and where nobody can be told, the status still says it."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, "schema"], stdout=full, stderr=stderr or full, text=True, check=False, timeout=60
        )
    assert done.returncode == 1
    if stderr:
        what, fix = done.stderr.splitlines()
        assert what == "whyidle: this host refused: No space left on device"
        assert fix.startswith("  make room")
