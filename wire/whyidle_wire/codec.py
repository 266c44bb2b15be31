"""Frames: a big-endian u32 length, then a msgpack array ``[kind, field, field, …]``.

Sans I/O: :func:`encode` makes bytes and :class:`FrameReader` takes them, in whatever pieces they arrive.
No input makes the reader raise anything but :class:`~whyidle_wire.errors.WireError`, nor hold more memory
than a small multiple of its limit.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, Final

import msgpack

from whyidle_wire.errors import BadFrame, FrameTooLarge, WireError
from whyidle_wire.fields import MismatchError, build, check_for, checks_of
from whyidle_wire.kinds import KIND_OF, KINDS
from whyidle_wire.records import Record, Unknown

MAX_TO_DAEMON: Final = 64 * 1024
"""Bytes in one frame from a client: anybody in the socket's group may send it to a root process."""

MAX_TO_CLIENT: Final = 64 * 1024 * 1024
"""Bytes in one frame from the daemon: a report of thousands of threads."""

_LENGTH: Final = struct.Struct(">I")

# msgpack allocates an array as long as its header claims, at each of up to 1024 levels, before it has seen
# one element. A claim is believed up to an element per 16 bytes of the largest frame allowed: 32 MiB at the
# worst for a frame to the daemon, and reports stay far below it.
_BYTES_PER_ELEMENT: Final = 16

_FIRST_BUFFER: Final = 4096  # bytes; it grows. Most records would leave most of msgpack's 256 KiB unused

# Of msgpack, the first byte of what can begin a record: how long the head of an array is, and a number.
_ARRAYS: Final = {0xDC: 3, 0xDD: 5}
_NUMBERS: Final = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
_HEAD: Final = 16  # bytes of a payload in which its kind is

_NO_KIND: Final = "a msgpack message that is not an array beginning with a record kind"

_any_value: Final = check_for(Any)


def encode(record: Record, max_frame: int = MAX_TO_CLIENT) -> bytes:
    """One frame. Text that is not valid Unicode (a file name's surrogates) has ``?`` in those places.

    Raises :class:`FrameTooLarge`; TypeError for a value that msgpack does not have (a bug of the caller);
    KeyError for a record without a number, such as Unknown.
    """
    kind = KIND_OF[type(record)]
    values = [kind, *(getattr(record, field.name) for field in checks_of(type(record)))]
    payload: bytes | None = msgpack.packb(
        values, use_bin_type=True, unicode_errors="replace", buf_size=_FIRST_BUFFER
    )
    assert payload is not None
    if len(payload) > max_frame:
        raise FrameTooLarge(len(payload), max_frame)
    return _LENGTH.pack(len(payload)) + payload


def decode(payload: bytes) -> Record:
    """The record in one frame's payload (without the length); raises :class:`BadFrame`."""
    return _decode(payload, max(len(payload), MAX_TO_DAEMON))


def _no_extensions(code: int, data: bytes) -> Any:
    raise ValueError(f"msgpack extension type {code}")


def _counting(most: int) -> Callable[[Any], Any]:
    """Ends the decoding of a message of many small arrays: an empty one is a byte here, 64 there."""
    left = most

    def count(found: Any) -> Any:
        nonlocal left
        left -= 1 + len(found)
        if left < 0:
            raise ValueError(f"more than {most} elements")
        return found

    return count


def _kind_in(payload: bytes | bytearray) -> int | None:
    """The record kind that a payload begins with, found without decoding it; ``None``: with none."""
    if not payload:
        return None
    at = 1 if 0x91 <= payload[0] <= 0x9F else _ARRAYS.get(payload[0], len(payload))
    if len(payload) <= at:
        return None
    first = payload[at]
    if first <= 0x7F:
        return first
    size = _NUMBERS.get(first, 0)
    return int.from_bytes(payload[at + 1 : at + 1 + size]) if size and len(payload) > at + size else None


def _decode(payload: bytes, max_frame: int, *, counted: bool = False) -> Record:
    elements = max(max_frame // _BYTES_PER_ELEMENT, 16)
    hook = _counting(2 * elements) if counted else None
    try:
        values = msgpack.unpackb(
            payload,
            raw=False,
            strict_map_key=True,
            ext_hook=_no_extensions,
            list_hook=hook,
            object_hook=hook,
            max_str_len=max_frame,
            max_bin_len=max_frame,
            max_array_len=elements,
            max_map_len=elements,
            max_ext_len=0,
        )
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise BadFrame(f"not a msgpack message ({type(error).__name__}: {str(error)[:120]})") from None
    if not isinstance(values, list) or not values or type(values[0]) is not int or values[0] < 0:
        raise BadFrame(_NO_KIND)
    kind, *fields = values
    cls = KINDS.get(kind)
    if cls is not None:
        return build(cls, fields)
    try:
        return Unknown(kind, tuple(_any_value(value) for value in fields))
    except MismatchError as wanted:
        raise BadFrame(f"record of unknown kind {kind}: {wanted} expected") from None


class FrameReader:
    """Cuts a stream of bytes into records.

    ``max_frame`` is the longest payload to accept, in bytes: ``MAX_TO_DAEMON`` in the daemon,
    ``MAX_TO_CLIENT`` in a client. A frame that announces more is refused before it is buffered.

    ``kinds``: records of other kinds come as :class:`Unknown` without fields, which nobody decodes, and a
    message has a bounded number of elements in all. The daemon says so, as what it decodes costs others.
    """

    def __init__(self, max_frame: int, kinds: Collection[int] | None = None) -> None:
        self._max_frame = max_frame
        self._kinds = kinds
        self._buffer = bytearray()
        self._error: Callable[[], WireError] | None = None  # not the error, which holds frames that hold this

    @property
    def pending(self) -> int:
        """Bytes of what was not returned yet; not 0 at the end of the stream means that it was cut off."""
        return len(self._buffer)

    @property
    def coming(self) -> tuple[int | None, int]:
        """Kind and length of the next record, decoding nothing; ``None``: it is not there or not one."""
        if len(self._buffer) < _LENGTH.size:
            return None, 0
        (length,) = _LENGTH.unpack_from(self._buffer)
        if length > min(self._max_frame, len(self._buffer) - _LENGTH.size):
            return None, length
        return _kind_in(self._buffer[_LENGTH.size : _LENGTH.size + min(length, _HEAD)]), length

    def feed(self, data: bytes) -> list[Record]:
        """Take the next bytes, return the records that they complete (often none).

        Raises :class:`FrameTooLarge` or :class:`BadFrame`, whose ``records`` are those before the bad frame;
        after that the stream has no known frame boundary, and every further call raises the same error.
        """
        self.keep(data)
        done: list[Record] = []
        try:
            while (record := self.next()) is not None:
                done.append(record)
        except WireError as error:
            error.records = done
            raise
        return done

    def keep(self, data: bytes) -> None:
        """Take the next bytes and look at none of them; :meth:`next` does. Of a bad stream none are kept."""
        if self._error is None:
            self._buffer += data

    def forget(self) -> None:
        """Nobody will ask for what is pending."""
        self._buffer.clear()

    def next(self) -> Record | None:
        """The next record, if all of it is there. Raises as :meth:`feed` does."""
        if self._error is not None:
            raise self._error()
        buffer = self._buffer
        if len(buffer) < _LENGTH.size:
            return None
        try:
            (length,) = _LENGTH.unpack_from(buffer)
            if length > self._max_frame:
                raise FrameTooLarge(length, self._max_frame)
            end = _LENGTH.size + length
            if len(buffer) < end:
                return None
            payload = bytes(memoryview(buffer)[_LENGTH.size : end])
            record = self._record(payload)
        except WireError as error:
            self._error = _again(error)
            buffer.clear()
            raise
        del buffer[:end]
        return record

    def _record(self, payload: bytes) -> Record:
        if self._kinds is None:
            return _decode(payload, self._max_frame)
        kind = _kind_in(payload[:_HEAD])
        if kind is None:
            raise BadFrame(_NO_KIND)
        return _decode(payload, self._max_frame, counted=True) if kind in self._kinds else Unknown(kind, ())


def _again(error: WireError) -> Callable[[], WireError]:
    if isinstance(error, FrameTooLarge):
        return partial(FrameTooLarge, error.size, error.limit)
    return partial(BadFrame, str(error))
