"""How ``bpf/events.h`` lays its structs out, and the way from their bytes to :mod:`whyidle_probes.events`.

``events.h`` is the truth. This mirror is written by hand, because bcc's own decoding misreads nested and
packed structs without an error; ``tests/unit/probes`` compiles an offset dump of the header and compares.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from whyidle_probes.events import (
    NO_PEER,
    ContextMade,
    Engine,
    Event,
    EventType,
    Exec,
    Exit,
    FirstWrite,
    Fork,
    Gap,
    Glance,
    Inference,
    Library,
    NameLookup,
    NotesWanted,
    Noticed,
    Peer,
    ShortWaits,
    Slice,
    Start,
    Thread,
)

_PEER = "16s16sHHBBBB"
_PEER_FAMILY = Peer._fields.index("family")
_HEADER = struct.Struct("<II")
_OF_SLICE = int(EventType.SLICE)  # nearly all events are: a name that is looked up in this module costs less
_SLICE = struct.Struct("<IIIIQQQQQIIHHi" + _PEER + "QHxxxxxx")
_THREAD = struct.Struct("<QIIIIQQQQQQQIIHHi" + _PEER + "16s32Q32IIIQHxxxxxx40xQ")
_BRIEF = struct.Struct("<8xIII12xQ8xQ32xH518x")
_GLANCE = struct.Struct("<8xII16xQQQ32xHHi" + _PEER + "16xQ")
GLANCED = slice(8, _GLANCE.size)
"""Bytes of a ``wi_thread`` that a glance is made of."""

_FORK = struct.Struct("<IIQII16s")
_START = struct.Struct("<IIQIIII")
_EXEC = struct.Struct("<IIQII16s64sQ")
_EXIT = struct.Struct("<IIQIiQ16s")
_LIBRARY = struct.Struct("<IIQII32s")
_GAP = struct.Struct("<IIIIQQQII32Q")
_GAP_KNOWN, _GAP_UNSEEN = 1, 2
_ENGINE_KEY = struct.Struct("<IIQ")
_ENGINE = struct.Struct("<IIII7Q32Q10Q7I4x")
_INFERENCE = struct.Struct("<IIIIQQQQQIIII")
_CONTEXT = struct.Struct("<IIQIIQQ160s")
_WAIT_KEY = struct.Struct("<II16sHHBxxx")
_WAIT = struct.Struct("<QQQIxxxx")
_LOOKUP = struct.Struct("<IIQQIIiI4I16s16s16s16s96s")
_FIRST_WRITE = struct.Struct("<IIQII" + _PEER + "II2048s")
RANGE = struct.Struct("<QQ")
CONFIG = struct.Struct("<QQQQQ")

SIZES = {
    "wi_peer": 40,
    "wi_slice": _SLICE.size,
    "wi_thread": _THREAD.size,
    "wi_thread_exit": _HEADER.size + _THREAD.size,
    "wi_fork": _FORK.size,
    "wi_start": _START.size,
    "wi_exec": _EXEC.size,
    "wi_exit": _EXIT.size,
    "wi_library": _LIBRARY.size,
    "wi_gap": _GAP.size,
    "wi_engine_key": _ENGINE_KEY.size,
    "wi_engine": _ENGINE.size,
    "wi_wait_key": _WAIT_KEY.size,
    "wi_wait": _WAIT.size,
    "wi_lookup": _LOOKUP.size,
    "wi_first_write": _FIRST_WRITE.size,
    "wi_inference": _INFERENCE.size,
    "wi_context": _CONTEXT.size,
    "wi_noticed": _HEADER.size,
    "wi_range": RANGE.size,
    "wi_config": CONFIG.size,
}


# Records whose fields are those of their tuple, one by one.
_PLAIN: dict[int, tuple[struct.Struct, Callable[[Iterable[Any]], Inference | ContextMade]]] = {
    EventType.INFERENCE: (_INFERENCE, Inference._make),
    EventType.CONTEXT: (_CONTEXT, ContextMade._make),
}


class BadEventError(ValueError):
    """Bytes that are no event of this version: a daemon and a probe that do not belong together."""


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("utf-8", "replace")


def _peer(fields: tuple[Any, ...]) -> Peer:
    """The one :data:`NO_PEER` where there is none: most waits, and there may be a million of them."""
    return Peer._make(fields) if fields[_PEER_FAMILY] else NO_PEER


def decode_thread(
    data: bytes | memoryview, offset: int = 0, alike: dict[tuple[int, ...], tuple[int, ...]] | None = None
) -> Thread | None:
    """Decode a ``wi_thread``; ``None`` when it was copied while the kernel was changing it: read again.

    ``alike``: counts seen so far. Most threads of a crowd have done the same, and share one tuple of them.
    """
    f = _THREAD.unpack_from(data, offset)
    if f[0] != f[-1]:
        return None
    count = f[58:90] if alike is None else alike.setdefault(f[58:90], f[58:90])
    return Thread._make((*f[1:17], _peer(f[17:25]), sys.intern(_text(f[25])), f[26:58], count, *f[90:94]))


def decode_glance(data: bytes) -> Glance:
    """Decode the part of a ``wi_thread`` that says what the thread is doing now."""
    f = _GLANCE.unpack_from(data)
    return Glance._make((*f[:8], _peer(f[8:16]), f[16]))


def decode_briefs(data: bytes) -> Iterator[tuple[int, int, int, int, int, int]]:
    """Of many ``wi_thread``, one after another: ``(pid, tid, target, last_ns, end_ns, state)``.

    A twentieth of the cost of glances; as those, each may be of two moments.
    """
    return _BRIEF.iter_unpack(data)


def engine_key(pid: int, context: int) -> bytes:
    """Key of an entry of the ``engines`` map."""
    return _ENGINE_KEY.pack(pid, 0, context)


def decode_engine(key: bytes, value: bytes) -> Engine:
    """Decode an entry of the ``engines`` map."""
    pid, _, context = _ENGINE_KEY.unpack(key)
    f = _ENGINE.unpack(value)
    runs = (*f[43:55], f[55], f[57], f[59])  # without what only the kernel side needs: the current call
    return Engine._make((pid, context, f[0], f[1], bool(f[2]), *f[4:11], f[11:43], *runs))


def decode_wait(key: bytes, value: bytes) -> ShortWaits:
    """Decode an entry of the ``waits`` map."""
    return ShortWaits(*_WAIT_KEY.unpack(key), *_WAIT.unpack(value))


def decode_event(data: bytes) -> Event | NotesWanted:  # noqa: PLR0912 (one branch for each type)
    """Decode one ring-buffer record.

    Raises :class:`BadEventError` for an unknown type or a record that is too short.
    """
    try:
        kind, target = _HEADER.unpack_from(data)
        if kind == _OF_SLICE:
            f = _SLICE.unpack_from(data)
            return Slice._make((target, *f[2:14], _peer(f[14:22]), *f[22:24]))
        if kind == EventType.THREAD_EXIT:
            thread = decode_thread(data, _HEADER.size)
            if thread is None:
                raise BadEventError("thread record torn")
            return thread
        if kind == EventType.GAP:
            f = _GAP.unpack_from(data)
            return Gap._make(
                (target, *f[2:7], f[9:41] if f[7] & _GAP_KNOWN else None, bool(f[7] & _GAP_UNSEEN))
            )
        if kind in _PLAIN:
            form, make = _PLAIN[kind]
            return make((target, *form.unpack_from(data)[2:]))
        if kind == EventType.FORK:
            f = _FORK.unpack_from(data)
            return Fork._make((target, *f[2:5], _text(f[5])))
        if kind == EventType.START:
            return Start._make((target, *_START.unpack_from(data)[2:7]))
        if kind == EventType.EXEC:
            f = _EXEC.unpack_from(data)
            return Exec._make((target, *f[2:5], _text(f[5]), _text(f[6]), f[7]))
        if kind == EventType.EXIT:
            f = _EXIT.unpack_from(data)
            return Exit._make((target, *f[2:6], _text(f[6])))
        if kind == EventType.LIBRARY:
            f = _LIBRARY.unpack_from(data)
            return Library._make((target, *f[2:5], _text(f[5])))
        if kind == EventType.FIRST_WRITE:
            f = _FIRST_WRITE.unpack_from(data)
            return FirstWrite._make((target, *f[2:5], Peer(*f[5:13]), f[15][: f[13]]))
        if kind == EventType.NOTICED:
            return Noticed(target)
        if kind == EventType.NOTES_WANTED:
            return NotesWanted(target)
        if kind == EventType.LOOKUP:
            f = _LOOKUP.unpack_from(data)
            count = min(f[7], 4)
            addresses = tuple(zip(f[8 : 8 + count], f[12 : 12 + count], strict=True))
            return NameLookup._make((target, *f[2:6], f[6], _text(f[16]), addresses))
    except struct.error as error:
        raise BadEventError(str(error)) from None
    raise BadEventError(f"unknown event type {kind}")
