"""Records to bytes: msgpack arrays, made smaller by what the records of one block have in common."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

import msgpack

from whyidle_daemon.recording.records import KIND_OF, LAYOUTS, Kind

_FIRST_BUFFER = 1024  # bytes; most records are smaller than a tenth of that

Coder = Callable[["Encoder", Any], Any]


class Encoder:
    """Packs the records of one block. ``origin_ns`` is the start of the observation, 0 at first."""

    def __init__(self, origin_ns: int) -> None:
        self.clock = origin_ns
        self.known: dict[Any, int] = {}
        # A file name that is not valid Unicode has surrogates: kept, so that the report is the same.
        # The buffer grows with the records; by default it would be 256 KiB for each process observed, and a
        # new block's would leave a hole of that size in the heap.
        self._pack = msgpack.Packer(
            use_bin_type=True, unicode_errors="surrogatepass", buf_size=_FIRST_BUFFER
        ).pack

    def encode(self, record: tuple[Any, ...], kind: Kind | None = None) -> bytes:
        """One record; ``kind`` says which, for a class that has none of its own in ``KIND_OF``.

        Raises KeyError for a class without a number; ValueError, TypeError or OverflowError for a value that
        msgpack does not have.
        """
        number, count, plan = _PLANS[KIND_OF[type(record)] if kind is None else kind]
        values: list[Any] = [number, *record[:count]]
        for index, code in plan:
            values[index] = code(self, values[index])
        packed: bytes = self._pack(values)
        return packed


def _code_time(encoder: Encoder, value: int) -> int | None:
    if not value:
        return None
    delta = value - encoder.clock
    encoder.clock = value
    return delta


def _code_interned(encoder: Encoder, value: Any) -> Any:
    """The number of a value that this block has had; the value itself, which gets the next number."""
    number = encoder.known.get(value)
    if number is None:
        encoder.known[value] = len(encoder.known)
        return value
    return number


def _code_waits(encoder: Encoder, value: tuple[int, ...] | None) -> list[int] | None:
    if value is None:
        return None
    sparse: list[int] = []
    for index, amount in enumerate(value):
        if amount:
            sparse += (index, amount)
    return sparse


def _code_peers(encoder: Encoder, value: tuple[Any, ...]) -> list[Any]:
    return [_code_interned(encoder, peer) for peer in value]


def _code_awaiting(encoder: Encoder, value: tuple[Any, ...]) -> list[Any]:
    return [
        [
            one.name,
            _code_interned(encoder, one.site),
            one.kind,
            _code_interned(encoder, one.peer),
            one.number,
            _code_time(encoder, one.since_ns),
            one.ports,
            one.inbound,
            one.wanted,
        ]
        for one in value
    ]


_CODERS: Final[dict[str, Coder]] = {
    "time": _code_time,
    "peer": _code_interned,
    "site": _code_interned,
    "peers": _code_peers,
    "awaiting": _code_awaiting,
    "waits": _code_waits,
    "waits?": _code_waits,
    "pids": lambda _, value: struct.pack(f"<{len(value)}I", *value),
}
_PLANS: Final = {
    kind: (
        int(kind),
        len(layout.fields),
        tuple((i, _CODERS[word]) for i, (_, word) in enumerate(layout.fields, 1) if word in _CODERS),
    )
    for kind, layout in LAYOUTS.items()
}
