"""Offsets: the tables against the headers, and what a target says of itself against reason."""

from __future__ import annotations

import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unit.pystack import make_offsets, pythons
from whyidle_daemon.pystack import StackError, StackReader
from whyidle_daemon.pystack.layout import DEBUG_OFFSETS_SIZE, layout
from whyidle_daemon.pystack.tables import OBJECTS, TABLES


@pytest.mark.parametrize("version", sorted(TABLES))
def test_tables_are_what_the_headers_say(version: tuple[int, int]) -> None:
    """Compiling against the headers of a version gives the table that is checked in."""
    include = pythons.headers(f"{version[0]}.{version[1]}")
    assert make_offsets.offsets(include) == (version, TABLES[version])


@pytest.mark.parametrize("version", sorted(OBJECTS))
def test_objects_are_what_the_headers_say(version: tuple[int, int]) -> None:
    """The same for the structures of dictionaries, sets and coroutines."""
    include = pythons.headers(f"{version[0]}.{version[1]}")
    found = make_offsets.offsets(include, make_offsets.OBJECT_FIELDS)
    assert found == (version, OBJECTS[version])


@pytest.mark.parametrize("name", ["3.13", "3.14", "3.15"])
def test_what_the_runtime_says_is_what_the_headers_say(name: str) -> None:
    """From 3.13 on the running interpreter describes the layout that its headers have."""
    expected = make_offsets.offsets(pythons.headers(name))[1]
    with subprocess.Popen(
        [pythons.need(name), "-c", "import sys; print(1, flush=True); sys.stdin.readline()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout
        process.stdout.readline()
        with StackReader(process.pid) as reader:
            said = reader.python.layout._asdict()
            # How large an interpreter is depends on the build; where it differs, nothing is taken from it.
            assert {**said, "interp_size": 0} == {**expected, "interp_size": 0}
        process.communicate(b"\n")


def test_the_file_is_what_the_generator_writes() -> None:
    """Nobody edited the generated file."""
    path = Path(sys.modules[layout.__module__].__file__ or "").with_name("tables.py")
    assert path.read_text() == make_offsets.module(TABLES, OBJECTS)


@pytest.mark.parametrize("version", [(3, 7), (3, 16), (2, 7), (4, 0)])
def test_unknown_versions_are_unsupported(version: tuple[int, int]) -> None:
    """A version without a known layout is refused with its number, never guessed at."""
    with pytest.raises(StackError) as caught:
        layout(version, bytes(DEBUG_OFFSETS_SIZE))
    assert caught.value.reason == "unsupported"
    assert f"{version[0]}.{version[1]}" in caught.value.detail


def test_free_threaded_builds_are_unsupported() -> None:
    """Objects of a build without a GIL have another shape; it is refused by name."""
    head = struct.pack("<8sQQ", b"xdebugpy", 0x030D00F0, 1).ljust(DEBUG_OFFSETS_SIZE, b"\0")
    with pytest.raises(StackError, match="free-threaded"):
        layout((3, 13), head)


@given(st.sampled_from([(3, 13), (3, 14), (3, 15)]), st.binary(min_size=1000, max_size=1000))
def test_offsets_out_of_reason_are_unsupported(version: tuple[int, int], said: bytes) -> None:
    """A runtime that lies about its layout is refused, or gives offsets within a structure."""
    number = version[0] << 24 | version[1] << 16
    head = (struct.pack("<8sQQ", b"xdebugpy", number, 0) + said)[:DEBUG_OFFSETS_SIZE]
    with suppress(StackError):
        assert all(-1 <= offset < 1 << 20 for offset in layout(version, head))
