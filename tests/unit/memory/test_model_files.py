"""The model's file that a process maps, looked at whenever a context is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from test_gguf import ARCHITECTURE, GOOD, SHAPE, header

from whyidle_daemon import model_files
from whyidle_daemon.model_files import ModelFiles
from whyidle_daemon.proc import Mapping
from whyidle_daemon.reading_guard import Process

PID = 7


class Maps:
    """/proc of a process that maps some files."""

    def __init__(self, *files: Path) -> None:
        self.files = {0x1000 * (n + 1): file for n, file in enumerate(files)}

    def mappings(self, pid: int) -> list[Mapping]:
        return [
            Mapping(start, start + 0x1000, False, 0, (8, 1), file.stat().st_ino, str(file))
            for start, file in self.files.items()
        ]

    def path(self, pid: int, folder: str, name: str) -> Path:
        return self.files[int(name.partition("-")[0], 16)]


class Watched:
    """A guard that notes when a process's files are read."""

    def __init__(self, banned: bool = False) -> None:
        self.banned = banned
        self.seen: list[str] = []

    def admit(self, pid: int) -> Process | None:
        return None if self.banned else Process(pid, 1, 1000)

    def begin(self, process: Process) -> None:
        self.seen.append("begin")

    def rest(self) -> None:
        self.seen.append("rest")


def of(*files: Path) -> ModelFiles:
    return ModelFiles(cast("Any", Maps(*files)))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "small.gguf"
    path.write_bytes(GOOD)
    return path


def test_a_header_is_read_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many contexts are made of it; a file that changed is another."""
    read: list[int] = []
    real = model_files.read_shape
    monkeypatch.setattr(model_files, "read_shape", lambda reader: read.append(1) or real(reader))
    models = of(model)
    first = models.of(PID)
    assert (first.name, first.bytes, first.doubt) == ("small.gguf", len(GOOD), "")
    assert [models.of(PID) for _ in range(9)] == [first] * 9
    assert len(read) == 1
    model.write_bytes(header(ARCHITECTURE, *SHAPE))
    assert models.of(PID).shape == first.shape
    assert len(read) == 2


def test_what_is_no_model_is_remembered_as_well(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model.write_bytes(b"no model")
    models = of(model)
    doubt = models.of(PID).doubt
    monkeypatch.setattr(model_files, "read_shape", None)
    assert models.of(PID).doubt == doubt == "the model's file is not understood: no GGUF file"


def test_parts_of_one_model_and_several_models(model: Path, tmp_path: Path) -> None:
    part, other = tmp_path / "part.gguf", tmp_path / "other.gguf"
    part.write_bytes(header(*SHAPE))  # a later part does not say its architecture
    other.write_bytes(GOOD.replace(b"llama", b"other"))
    whole = of(model, part).of(PID)
    assert (whole.bytes, whole.doubt) == (len(GOOD) + part.stat().st_size, "")
    assert of(model, other).of(PID).doubt == "the process has several models"
    assert of().of(PID).doubt == "the model's file is not mapped"


def test_files_are_read_under_the_guard(model: Path) -> None:
    """A user may serve the file system himself, and let the daemon wait."""
    guard = Watched()
    assert ModelFiles(cast("Any", Maps(model)), guard).of(PID).shape
    assert guard.seen == ["begin", "rest"]
    banned = Watched(banned=True)
    assert ModelFiles(cast("Any", Maps(model)), banned).of(PID).doubt == "the model's file cannot be opened"
    assert banned.seen == []
