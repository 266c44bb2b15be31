"""The file's frame: a header, then blocks that each stand for themselves. ``FORMAT.md`` has the picture."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from enum import IntEnum, IntFlag
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from whyidle_daemon.recording.errors import (
    BadBlockError,
    DamagedRecording,
    EmptyRecording,
    NewerRecording,
    NotARecording,
    TruncatedRecording,
)

MAGIC: Final = b"\x89whyidle"
VERSION: Final = 1
MAX_BLOCK: Final = 16 << 20
"""Bytes of a payload, compressed and not; one that announces more is damaged."""

_FILE: Final = struct.Struct("<8sHHI")
_BLOCK: Final = struct.Struct("<IIIBBHI")
_CHECKED: Final = _BLOCK.size - 4
_LEVEL: Final = 6
_LEAST_WINDOW: Final = 10


class Codec(IntEnum):
    """How a payload is compressed. Append-only."""

    PLAIN = 0
    ZLIB = 1


class Flag(IntFlag):
    """What a block says of itself. ``CHECKPOINT``: its last record is one, so a report can be made here."""

    NONE = 0
    CHECKPOINT = 1
    END = 2


class Header(NamedTuple):
    """Of one block; ``offset`` is where the block begins in the file, sizes are bytes."""

    offset: int
    number: int
    stored: int
    plain: int
    records: int
    codec: int
    flags: int


def file_header(version: int = VERSION) -> bytes:
    """The first 16 bytes of a recording."""
    start = struct.pack("<8sHH", MAGIC, version, 0)
    return start + struct.pack("<I", zlib.crc32(start))


def block(payload: bytes, records: int, flags: Flag = Flag.NONE) -> bytes:
    """One block, compressed."""
    stored = _compressed(payload)
    start = _BLOCK.pack(len(stored), len(payload), records, Codec.ZLIB, flags, 0, 0)[:_CHECKED]
    return start + struct.pack("<I", zlib.crc32(stored, zlib.crc32(start))) + stored


def _compressed(payload: bytes) -> bytes:
    """As ``zlib.compress``, with tables no larger than the payload can use.

    Its own are 256 KiB: to get them from the kernel, page by page, takes longer than to compress the kilobyte
    that an observation has to say in a second.
    """
    window = min(zlib.MAX_WBITS, max(_LEAST_WINDOW, (len(payload) - 1).bit_length()))  # its logarithm
    level = max(1, zlib.DEF_MEM_LEVEL - zlib.MAX_WBITS + window)
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, window, level)
    return compressor.compress(payload) + compressor.flush()


def read_file_header(file: BinaryIO, path: str | Path) -> None:
    """Check the first bytes. Raises the error for what is no recording that this version can read."""
    start = file.read(_FILE.size)
    if not start:
        raise EmptyRecording(path)
    if not start.startswith(MAGIC[: len(start)]):
        raise NotARecording(path)
    if len(start) < _FILE.size:
        raise TruncatedRecording(path)
    _, version, _, checksum = _FILE.unpack(start)
    if zlib.crc32(start[:-4]) != checksum:
        raise DamagedRecording(path, "its header has a wrong checksum")
    if version > VERSION:
        raise NewerRecording(path, f"format {version}, this one reads up to {VERSION}")
    if version == 0:
        raise DamagedRecording(path, "its header has no version")


def blocks(file: BinaryIO) -> Iterator[tuple[Header, bytes]]:
    """Header and compressed payload of each block whose checksum is right, to the end of the file.

    Raises :class:`BadBlockError` at the first one that is cut off, damaged or of an unknown codec.
    """
    offset, number = _FILE.size, 0
    while start := file.read(_BLOCK.size):
        number += 1
        where = f"block {number} (at byte {offset})"
        if len(start) < _BLOCK.size:
            raise BadBlockError(f"{where} is cut off")
        stored, plain, records, codec, flags, _, checksum = _BLOCK.unpack(start)
        if stored > MAX_BLOCK or plain > MAX_BLOCK:
            raise BadBlockError(f"{where} is damaged: it claims {max(stored, plain)} bytes")
        payload = file.read(stored)
        if len(payload) < stored:
            raise BadBlockError(f"{where} is cut off")
        if zlib.crc32(payload, zlib.crc32(start[:_CHECKED])) != checksum:
            raise BadBlockError(f"{where} is damaged: wrong checksum")
        if codec not in (Codec.PLAIN, Codec.ZLIB):
            raise BadBlockError(f"{where} uses compression {codec}, which a newer whyidle knows")
        yield Header(offset, number, stored, plain, records, codec, flags), payload
        offset += _BLOCK.size + stored


def unpack(header: Header, stored: bytes) -> bytes:
    """The payload of a block, never more than it announced. Raises :class:`BadBlockError`."""
    if header.codec == Codec.PLAIN:
        payload, whole = stored, True
    else:
        inflater = zlib.decompressobj()
        try:
            payload = inflater.decompress(stored, header.plain + 1)
        except zlib.error:
            raise BadBlockError(f"block {header.number} does not decompress") from None
        whole = inflater.eof and not inflater.unused_data
    if not whole or len(payload) != header.plain:
        raise BadBlockError(f"block {header.number} is not as long as it says")
    return payload
