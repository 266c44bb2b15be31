"""Finding the libraries that get probes in what a process maps, while its linker still moves them about."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, cast

from whyidle_daemon.libraries import EngineLibraries
from whyidle_daemon.proc import Mapping


class Linker:
    """/proc of a process whose linker cuts a mapping up between the look at it and the opening of it."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.moved = True

    def mappings(self, pid: int) -> list[Mapping]:
        status = self._file.stat()
        return [Mapping(0x1000, 0x9000, True, 0, (8, 1), status.st_ino, str(self._file))]

    def path(self, pid: int, *parts: str) -> Path:
        return self._file.with_name("gone") if self.moved else self._file


def test_a_mapping_that_moved_is_looked_at_again(tmp_path: Path) -> None:
    """Neither found nor given up: a model whose library was mapped at that instant would never be seen."""
    library = tmp_path / "libllama.so"
    library.write_bytes(Path(sys.executable).resolve().read_bytes())  # an ELF file without those functions
    proc = Linker(library)
    libraries = EngineLibraries(lambda kind, path, offsets: (), cast("Any", proc))
    assert not libraries.scan(1)
    assert not libraries.attached
    proc.moved = False
    assert libraries.scan(1)
    assert [entry.path for entry in libraries.attached] == [str(library)]
    libraries.close()
