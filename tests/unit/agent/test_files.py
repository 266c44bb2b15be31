"""The tool `write_file`: what a file name can be, and where it can lead."""

import errno
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from whyidle_agent import files
from whyidle_agent.errors import AgentError
from whyidle_agent.files import MAX_FILE_BYTES, WorkFolder, work_folder, write_file


@pytest.fixture(autouse=True, params=["openat2", "no openat2", "filtered"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it holds with openat2, before Linux 5.6, and where a filter does not know it."""
    answers = {"no openat2": errno.ENOSYS, "filtered": errno.EPERM}
    if request.param in answers:

        def refuse(*_: object) -> int:
            files.ctypes.set_errno(answers[request.param])
            return -1

        monkeypatch.setattr(files, "_syscall", refuse)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "outer" / "work"


def snapshot(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "..",
        ".",
        "",
        "/etc/x",
        "a/../b",
        "a//b",
        "a/",
        "/a",
        "./a",
        "a/b/c/d/e",
        "a/.b",
        "a\0b",
        ".hidden",
        "a" * 65,
        "a\n",
        "ä",
        "-x",
        "~x",
        "a\\b",
        "c:x",
    ],
)
def test_names_that_are_not_plain_are_refused(folder: Path, name: str) -> None:
    """A name with a path, a dot in front, or anything but plain characters writes nothing."""
    with work_folder(folder) as opened:
        observation = write_file(name, "text", opened)
    assert not observation.ok
    assert observation.text.startswith("refused")
    assert snapshot(folder.parent) == {}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(name=st.text(max_size=80) | st.lists(st.sampled_from(["..", ".", "/", "a", "\\", "\0"])).map("".join))
def test_no_name_escapes(folder: Path, name: str) -> None:
    """Whatever the name, nothing outside the folder is made or changed."""
    folder.mkdir(parents=True, exist_ok=True)
    outside = folder.parent / "a"
    outside.write_text("untouched")
    with work_folder(folder) as opened:
        observation = write_file(name, "text", opened)
    assert observation.ok == (name in snapshot(folder))
    assert outside.read_text() == "untouched"
    assert {path.name for path in folder.parent.iterdir()} == {"a", "work"}
    shutil.rmtree(folder)


def test_links_are_not_followed(folder: Path) -> None:
    """A symbolic link, a hard link, a FIFO or a folder of that name never leads a write elsewhere."""
    secret = folder.parent / "secret"
    with work_folder(folder) as opened:
        secret.write_text("untouched")
        (folder / "link").symlink_to(secret)
        (folder / "dangling").symlink_to(folder.parent / "new")
        os.mkfifo(folder / "fifo")
        (folder / "directory").mkdir()
        os.link(secret, folder / "hard")
        (folder / "way-out").symlink_to(folder.parent)
        (folder / "absolute").symlink_to("/tmp")
        (folder / "inside").symlink_to("directory")
        for name in ("link", "dangling", "fifo", "directory"):
            assert "not a regular file" in write_file(name, "text", opened).text
        for name in ("way-out/new", "absolute/new", "inside/new", "hard/new", "fifo/new", "link/new"):
            assert write_file(name, "text", opened).text.startswith("cannot write")
        assert write_file("directory/below/new", "text", opened).ok
        assert write_file("hard", "text", opened).ok
    assert secret.read_text() == "untouched"
    assert (folder / "hard").read_text() == (folder / "directory/below/new").read_text() == "text"
    assert sorted(path.name for path in folder.parent.iterdir()) == ["secret", "work"]


def test_a_link_made_after_the_check_is_replaced_not_followed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losing the race between check and write still writes inside the folder."""
    secret = folder.parent / "secret"
    monkeypatch.setattr(files, "_is_replaceable", lambda name, folder: True)
    with work_folder(folder) as opened:
        secret.write_text("untouched")
        (folder / "link").symlink_to(secret)
        assert write_file("link", "text", opened).ok
    assert secret.read_text() == "untouched"
    assert not (folder / "link").is_symlink()


def test_an_exchanged_folder_does_not_redirect(folder: Path) -> None:
    """A folder renamed and replaced by a link during the run keeps receiving the files."""
    elsewhere = folder.parent / "elsewhere"
    with work_folder(folder) as opened:
        elsewhere.mkdir()
        folder.rename(folder.with_name("moved"))
        folder.symlink_to(elsewhere)
        assert write_file("a.txt", "text", opened).ok
    assert snapshot(elsewhere) == {}
    assert snapshot(folder.with_name("moved")) == {"a.txt": b"text"}


def test_a_work_folder_that_is_a_link_or_a_file_is_refused(tmp_path: Path) -> None:
    """A work folder must be a real folder; anything else is one clear error."""
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "file").write_text("")
    for name in ("link", "file"):
        with pytest.raises(AgentError, match="cannot use the work folder"):
            WorkFolder(tmp_path / name)


def test_the_size_limit(folder: Path) -> None:
    """A text of the limit is written, one byte more is refused and leaves the old file."""
    with work_folder(folder) as opened:
        assert write_file("a", "x" * MAX_FILE_BYTES, opened).ok
        assert not write_file("a", "x" * MAX_FILE_BYTES + "y", opened).ok
    assert len((folder / "a").read_bytes()) == MAX_FILE_BYTES
