"""Coverage-guided input for every decoder of what comes from a target, a socket or a file.

``python tests/fuzz/decoders.py NAME -runs=N [CORPUS]``; libFuzzer's options apply. Anything but the decoder's
own error ends the process with a status other than 0.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable

import atheris

with atheris.instrument_imports():
    from whyidle_daemon import contexts, elf, gguf, greetings
    from whyidle_daemon.gpus import fdinfo
    from whyidle_daemon.pystack import StackError, layout, lines
    from whyidle_daemon.recording import decoding, reader, records
    from whyidle_daemon.recording.blocks import Flag, block, file_header
    from whyidle_daemon.recording.encoding import Encoder
    from whyidle_daemon.recording.errors import MalformedError, RecordingError
    from whyidle_probes import structs
    from whyidle_wire import codec
    from whyidle_wire.errors import WireError
    from whyidle_wire.kinds import TO_DAEMON

from whyidle_daemon.facts import Host, Loss, Overhead

VERSIONS = [(3, minor) for minor in range(8, 15)]
NAMES = ("llama_decode", "_PyRuntime", "getaddrinfo")
LENGTH_NS = 1000


def greeting(data: bytes) -> None:
    """A name and a path of plain characters, or nothing."""
    found = greetings.decode(data)
    if found is None:
        return
    assert found.host is None or (0 < len(found.host) <= 253 and found.host.isascii())
    assert found.host is None or not set(found.host) - set("abcdefghijklmnopqrstuvwxyz0123456789-_.")
    assert found.path is None or (found.path[:1] == "/" and found.path.isascii() and found.path.isprintable())
    assert found.path is None or not set(found.path) & set("?# ")


def event(data: bytes) -> None:
    """An event, or :class:`BadEventError`."""
    with contextlib.suppress(structs.BadEventError):
        structs.decode_event(data)


def library(data: bytes) -> None:
    """The addresses of functions in an ELF file, or :class:`ElfError`."""
    with contextlib.suppress(elf.ElfError):
        found = elf.ElfFile(lambda offset, size: data[offset : offset + size])
        for name in NAMES:
            address = found.symbol(name)
            if address is not None:
                found.file_offset(address)


def model(data: bytes) -> None:
    """The shape of a model, with a finite cache, or :class:`GgufError`."""
    with contextlib.suppress(gguf.GgufError):
        shape = gguf.read_shape(lambda offset, size: data[offset : offset + size])
        assert 0 < len(shape.kv_heads) <= gguf.MAX_LAYERS
        assert shape.kv_bytes_per_cell(2, 2) >= 0


def parameters(data: bytes) -> None:
    """The types of a context's cache, if its parameters are of a known form."""
    contexts.types_in(data.ljust(160, b"\0")[:160])


def device(data: bytes) -> None:
    """What a process did on a GPU: never more than the time there was."""
    text = data.decode("utf-8", "replace")
    first, _, second = text.partition("\f")
    before, after = fdinfo.parse(first), fdinfo.parse(second)
    if before is not None and after is not None:
        busy, copy = fdinfo.together([fdinfo.worked(before, after, LENGTH_NS)] * 3, LENGTH_NS)
        assert 0 <= busy <= LENGTH_NS
        assert 0 <= copy <= LENGTH_NS - busy


def frame(data: bytes) -> None:
    """Records of the wire, however the bytes arrive, or :class:`WireError`."""
    with contextlib.suppress(WireError):
        whole = codec.FrameReader(codec.MAX_TO_DAEMON)
        for start in range(0, len(data), 7):
            whole.feed(data[start : start + 7])
    with contextlib.suppress(WireError):
        codec.FrameReader(codec.MAX_TO_DAEMON).feed(len(data).to_bytes(4, "big") + data)
    with contextlib.suppress(WireError):
        codec.FrameReader(codec.MAX_TO_DAEMON, TO_DAEMON).feed(len(data).to_bytes(4, "big") + data)


def line_table(data: bytes) -> None:
    """A line number, or none, from a code object's table of any version."""
    for version in VERSIONS:
        found = lines.line(version, data[4:], 1, int.from_bytes(data[:4], "little"))
        assert found is None or isinstance(found, int)


def offsets(data: bytes) -> None:
    """Where a runtime says that its fields are: within reason, or :class:`StackError`."""
    head = data[: layout.DEBUG_OFFSETS_SIZE].ljust(layout.DEBUG_OFFSETS_SIZE, b"\0")
    for version in VERSIONS:
        with contextlib.suppress(StackError):
            assert all(-1 <= offset < 1 << 20 for offset in layout.layout(version, head))


def block_payload(data: bytes) -> None:
    """Records of a recording's block, or :class:`MalformedError`."""
    with contextlib.suppress(MalformedError):
        for _ in decoding.Decoder(0).decode(data[1:], data[0] if data else 0):
            pass


def recording(data: bytes) -> None:
    """The report of any file, and of one whose second block has the right checksum and any content."""
    if data[:1] == b"\0":
        content = data[1:]
    else:
        content = _BEGIN + block(data[2:], data[1] if len(data) > 1 else 0, Flag((data or b"\1")[0] & 3))
    os.ftruncate(_FILE, 0)
    os.pwrite(_FILE, content, 0)
    with contextlib.suppress(RecordingError):
        reader.report(f"/proc/self/fd/{_FILE}")


def begin() -> bytes:
    """A recording with one block that says when it began and that nothing had happened yet."""
    encoder = Encoder(0)
    first = records.Begin(1 << 40, (1,), ("x",), "now", 4096, Host("6", 1), "1")
    totals = records.LAYOUTS[records.Kind.CHECKPOINT].cls(1 << 41, Loss(), Overhead(0.1, 1, None))
    parts = [encoder.encode(first, records.Kind.BEGIN), encoder.encode(totals, records.Kind.CHECKPOINT)]
    return file_header() + block(b"".join(parts), len(parts), Flag.CHECKPOINT)


DECODERS: dict[str, Callable[[bytes], None]] = {
    "greeting": greeting,
    "event": event,
    "library": library,
    "model": model,
    "parameters": parameters,
    "device": device,
    "frame": frame,
    "line_table": line_table,
    "offsets": offsets,
    "block_payload": block_payload,
    "recording": recording,
}

if __name__ == "__main__":
    chosen = sys.argv.pop(1)
    _FILE, _BEGIN = os.memfd_create("recording"), begin()
    atheris.Setup(sys.argv, DECODERS[chosen])
    atheris.Fuzz()
