"""Finding a dynamic symbol in files that may be anything."""

from __future__ import annotations

import ctypes
import ctypes.util
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whyidle_daemon.elf import ElfError, ElfFile


def reader(data: bytes):
    return lambda offset, size: data[offset : offset + size]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("elf")
    (directory / "lib.c").write_text(
        "int llama_decode(void *c) { return c != 0; }\nint other(void) { return 2; }\n"
        "extern int gone(void) __attribute__((weak));\nint uses(void) { return gone ? gone() : 0; }\n"
    )
    subprocess.run(["cc", "-shared", "-fPIC", "-o", directory / "lib.so", directory / "lib.c"], check=True)
    subprocess.run(["strip", directory / "lib.so"], check=True)
    return directory / "lib.so"


def test_symbol_in_a_stripped_library(library: Path) -> None:
    """The offset found is where the function's code is: the dynamic linker agrees."""
    data = library.read_bytes()
    elf = ElfFile(reader(data))
    addresses = {name: elf.symbol(name) for name in ("llama_decode", "other")}
    loaded = ctypes.CDLL(str(library))
    runtime = {
        name: ctypes.cast(getattr(loaded, name), ctypes.c_void_p).value or 0
        for name in ("llama_decode", "other")
    }
    assert addresses["llama_decode"] is not None
    assert addresses["other"] is not None
    assert addresses["other"] - addresses["llama_decode"] == runtime["other"] - runtime["llama_decode"]
    code = ctypes.string_at(runtime["other"], 8)
    offset = elf.file_offset(addresses["other"])
    assert data[offset : offset + 8] == code


def test_absent_and_undefined_symbols(library: Path) -> None:
    """A symbol that is not there, or only referred to, is None."""
    elf = ElfFile(reader(library.read_bytes()))
    assert elf.symbol("llama_encode") is None
    assert elf.symbol("gone") is None


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"#!/bin/sh\n", b"\x7fELF\x01\x01" + bytes(100)])
def test_not_elf(data: bytes) -> None:
    """What is no 64-bit ELF file is refused with one error."""
    with pytest.raises(ElfError):
        ElfFile(reader(data))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_files_never_crash_or_hang(library: Path, data: st.DataObject) -> None:
    """However a file is damaged, the answer is an address, None or ElfError."""
    image = bytearray(library.read_bytes())
    for _ in range(data.draw(st.integers(1, 20))):
        # Mostly the headers and tables in front, where damage matters.
        limit = data.draw(st.sampled_from([64, 1024, 4096, len(image)]))
        image[data.draw(st.integers(0, min(limit, len(image)) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(image)))
    image = image[: max(cut, 64)]
    try:
        elf = ElfFile(reader(bytes(image)))
        address = elf.symbol("llama_decode")
        if address is not None:
            elf.file_offset(address)
    except ElfError:
        pass
