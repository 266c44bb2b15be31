"""Bytes to records, checked field by field.

Read as hostile: whatever the bytes, :class:`Decoder` raises nothing but :class:`MalformedError` and holds no
more than a small multiple of the block.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgpack

from whyidle_daemon.facts import AwaitingTasks, Host, Loss, Overhead, Site
from whyidle_daemon.recording.errors import MalformedError
from whyidle_daemon.recording.records import LAYOUTS
from whyidle_daemon.things import Thing
from whyidle_probes.events import STATES, Peer

MAX_ELEMENTS: Final = 4096
"""Of one array; the longest that is written is a command of 1001 arguments."""

MAX_TEXT: Final = 1 << 20

Check = Callable[["Decoder", Any], Any]


class Decoder:
    """Unpacks the records of one block."""

    def __init__(self, origin_ns: int) -> None:
        self.clock = origin_ns
        self.known: list[Any] = []

    def decode(self, payload: bytes, records: int) -> Iterator[tuple[int, Any]]:
        """``(kind, record)`` of each of so many; kinds that this version does not have are skipped.

        Raises MalformedError.
        """
        unpacker = msgpack.Unpacker(
            raw=False,
            unicode_errors="surrogatepass",
            strict_map_key=True,
            ext_hook=_no_extensions,
            max_buffer_size=max(len(payload), 1),
            max_str_len=MAX_TEXT,
            max_bin_len=MAX_TEXT,
            max_array_len=MAX_ELEMENTS,
            max_map_len=MAX_ELEMENTS,
            max_ext_len=0,
        )
        unpacker.feed(payload)
        try:
            for values in unpacker:
                records -= 1
                if type(values) is not list or not values or type(values[0]) is not int:
                    raise MalformedError("something that is no record")
                record = self._record(values)
                if record is not None:
                    yield values[0], record
        except (ValueError, msgpack.UnpackException, RecursionError) as error:
            if isinstance(error, MalformedError):
                raise
            raise MalformedError(f"not msgpack ({type(error).__name__})") from None
        if records or unpacker.tell() != len(payload):
            raise MalformedError("another number of records than it says")

    def _record(self, values: list[Any]) -> Any:
        layout = LAYOUTS.get(values[0])
        if layout is None:
            return None
        given = [
            _CHECKS[word](self, value) for (_, word), value in zip(layout.fields, values[1:], strict=False)
        ]
        try:
            return layout.cls(*given)  # what an older file lacks has its default
        except TypeError:
            raise MalformedError(f"a {layout.cls.__name__} of {len(given)} fields") from None


def _no_extensions(code: int, data: bytes) -> Any:
    raise MalformedError(f"msgpack extension type {code}")


def _mismatch(wanted: str) -> MalformedError:
    return MalformedError(f"{wanted} expected")


def _uint(_: Decoder, value: Any) -> int:
    if type(value) is not int or value < 0:
        raise _mismatch("number")
    return value


def _int(_: Decoder, value: Any) -> int:
    if type(value) is not int:
        raise _mismatch("integer")
    return value


def _below(limit: int, wanted: str) -> Check:
    def check(decoder: Decoder, value: Any) -> int:
        if _uint(decoder, value) >= limit:
            raise _mismatch(wanted)
        return int(value)

    return check


def _time(decoder: Decoder, value: Any) -> int:
    if value is None:
        return 0
    clock = decoder.clock + _int(decoder, value)
    if not 0 < clock < 1 << 63:
        raise _mismatch("time")
    decoder.clock = clock
    return clock


def _bool(_: Decoder, value: Any) -> bool:
    if type(value) is not bool:
        raise _mismatch("truth value")
    return value


def _float(_: Decoder, value: Any) -> float:
    if type(value) not in (float, int) or not math.isfinite(value):
        raise _mismatch("finite number")
    return float(value)


def _text(_: Decoder, value: Any) -> str:
    if type(value) is not str:
        raise _mismatch("text")
    return value


def _texts(decoder: Decoder, value: Any) -> tuple[str, ...]:
    return tuple(_text(decoder, item) for item in _list(value))


def _list(value: Any) -> list[Any]:
    if type(value) is not list:
        raise _mismatch("array")
    return value


def _bytes(*lengths: int) -> Check:
    def check(_: Decoder, value: Any) -> bytes:
        if type(value) is not bytes or len(value) not in lengths:
            raise _mismatch(f"{' or '.join(map(str, lengths))} bytes")
        return value

    return check


def _optional(inner: Check) -> Check:
    return lambda decoder, value: None if value is None else inner(decoder, value)


def _fields(cls: Any, *checks: Check) -> Check:
    """A tuple inside a record: its array may be shorter (older) or longer (newer) than ``checks``."""

    def check(decoder: Decoder, value: Any) -> Any:
        given = [one(decoder, item) for one, item in zip(checks, _list(value), strict=False)]
        try:
            return cls(*given)
        except TypeError:
            raise _mismatch(cls.__name__) from None

    return check


def _interned(inner: Check) -> Check:
    def check(decoder: Decoder, value: Any) -> Any:
        if type(value) is int:
            if not 0 <= value < len(decoder.known):
                raise _mismatch("number of an earlier value")
            return decoder.known[value]
        known = inner(decoder, value)
        decoder.known.append(known)
        return known

    return check


def _same(inner: Check, cls: Any) -> Check:
    """Peers and sites are numbered together: a number may stand for the other."""
    interned = _interned(inner)

    def check(decoder: Decoder, value: Any) -> Any:
        found = interned(decoder, value)
        if type(found) is not cls:
            raise _mismatch(cls.__name__)
        return found

    return check


def _waits(decoder: Decoder, value: Any) -> tuple[int, ...]:
    sparse = _list(value)
    if len(sparse) % 2:
        raise _mismatch("pairs")
    amounts = [0] * STATES
    for index, amount in zip(sparse[::2], sparse[1::2], strict=True):
        amounts[_WAIT(decoder, index)] = _uint(decoder, amount)
    return tuple(amounts)


def _pids(_: Decoder, value: Any) -> tuple[int, ...]:
    if type(value) is not bytes or not value or len(value) % 4:
        raise _mismatch("process numbers")
    return struct.unpack(f"<{len(value) // 4}I", value)


def _gpu(decoder: Decoder, value: Any) -> dict[str, Any]:
    if type(value) is not dict:
        raise _mismatch("object")
    for key, item in value.items():
        if type(key) is not str or not (item is None or type(item) in (str, int, bool)):
            raise _mismatch("plain values")
    return value


_WAIT: Final = _below(STATES, "kind of wait")
_PORT: Final = _below(1 << 16, "port")
_IP: Final = _bytes(16)
_PEER: Final = _fields(Peer, _IP, _IP, _PORT, _PORT, *[_uint] * 4)
_SITE: Final = _fields(Site, _text, _text, _optional(_uint), _texts)


def _tuple_of(inner: Check) -> Check:
    return lambda decoder, value: tuple(inner(decoder, item) for item in _list(value))


def _end(decoder: Decoder, value: Any) -> Any:
    return (_IP if type(value) is bytes else _uint)(decoder, value)


_THING: Final = _fields(Thing, _text, _tuple_of(_end), _tuple_of(_end))
_AWAITING: Final = _fields(
    AwaitingTasks,
    _text,
    _same(_SITE, Site),
    _text,
    _same(_PEER, Peer),
    _uint,
    _time,
    _tuple_of(_PORT),
    _bool,
    _bool,
)
_CHECKS: Final[dict[str, Check]] = {
    "uint": _uint,
    "uint?": _optional(_uint),
    "int": _int,
    "int?": _optional(_int),
    "time": _time,
    "bool": _bool,
    "wait": _WAIT,
    "port": _PORT,
    "text": _text,
    "text?": _optional(_text),
    "texts": _texts,
    "ip": _IP,
    "address": _bytes(4, 16),
    "peer": _same(_PEER, Peer),
    "peers": _tuple_of(_same(_PEER, Peer)),
    "awaiting": _tuple_of(_AWAITING),
    "site": _same(_SITE, Site),
    "thing?": _optional(_THING),
    "waits": _waits,
    "waits?": _optional(_waits),
    "pids": _pids,
    "host": _fields(
        Host, _text, _uint, lambda decoder, value: tuple(_gpu(decoder, gpu) for gpu in _list(value))
    ),
    "loss": _fields(Loss, *[_uint] * len(Loss._fields)),
    "overhead": _fields(Overhead, _float, _uint, _optional(_float)),
}
