"""The frame codec: what goes in comes out, and what is hostile is refused with a WireError."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import struct
import weakref
from typing import Any, get_type_hints

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whyidle_wire.codec import MAX_TO_CLIENT, MAX_TO_DAEMON, FrameReader, decode, encode
from whyidle_wire.errors import BadFrame, FrameTooLarge, WireError
from whyidle_wire.fields import MAX_DEPTH, check_for
from whyidle_wire.kinds import KIND_OF, KINDS, TO_DAEMON
from whyidle_wire.records import (
    Dropped,
    Hello,
    Observe,
    Observing,
    Progress,
    Record,
    Report,
    Status,
    StatusReply,
    Subscribe,
    Unknown,
)

integers = st.integers(-(2**63), 2**64 - 1)
floats = st.floats(allow_nan=False)
plain = st.recursive(
    st.none() | st.booleans() | integers | floats | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
BY_TYPE: dict[Any, st.SearchStrategy[Any]] = {
    int: integers,
    float: floats,
    str: st.text(),
    bool: st.booleans(),
    int | None: st.none() | integers,
    float | None: st.none() | floats,
    str | None: st.none() | st.text(),
    tuple[str, ...]: st.lists(st.text(), max_size=5).map(tuple),
    tuple[int, ...]: st.lists(integers, max_size=5).map(tuple),
    dict[str, Any]: st.dictionaries(st.text(), plain, max_size=4),
    tuple[dict[str, Any], ...]: st.lists(st.dictionaries(st.text(), plain, max_size=3), max_size=3).map(
        tuple
    ),
    dict[str, Any] | None: st.none() | st.dictionaries(st.text(), plain, max_size=4),
}


def any_record(cls: type[Record]) -> st.SearchStrategy[Record]:
    hints = get_type_hints(cls)
    assert dataclasses.is_dataclass(cls)
    return st.builds(cls, *(BY_TYPE[hints[field.name]] for field in dataclasses.fields(cls)))


records = st.one_of([any_record(cls) for cls in KINDS.values()])


def frame(payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + payload


def pack(*values: Any) -> bytes:
    packed = msgpack.packb(list(values))
    assert isinstance(packed, bytes)
    return packed


@given(records)
def test_roundtrip(record: Record) -> None:
    """Every record of every kind comes back equal."""
    assert FrameReader(MAX_TO_CLIENT).feed(encode(record)) == [record]


@given(st.lists(records, max_size=4), st.lists(st.integers(1, 40), min_size=1))
def test_pieces(sent: list[Record], sizes: list[int]) -> None:
    """How the stream is cut into reads makes no difference."""
    stream = b"".join(encode(record) for record in sent)
    reader, got, at, turn = FrameReader(MAX_TO_CLIENT), [], 0, 0
    while at < len(stream):
        size = sizes[turn % len(sizes)]
        got += reader.feed(stream[at : at + size])
        at, turn = at + size, turn + 1
    assert got == sent
    assert reader.pending == 0


@given(st.binary(max_size=300))
def test_hostile_stream(data: bytes) -> None:
    """Arbitrary bytes give records or a WireError, nothing else."""
    reader = FrameReader(MAX_TO_DAEMON)
    with contextlib.suppress(WireError):
        reader.feed(data)


@given(st.binary(max_size=300))
def test_hostile_payload(payload: bytes) -> None:
    """Arbitrary bytes in a well-formed frame give a record or BadFrame, nothing else."""
    try:
        (record,) = FrameReader(MAX_TO_DAEMON).feed(frame(payload))
    except BadFrame:
        return
    assert isinstance(record, Record)


@given(st.sampled_from(sorted(KINDS)), st.lists(plain, max_size=7))
def test_hostile_fields(kind: int, values: list[Any]) -> None:
    """Fields of any type and number give a record whose fields have the annotated types, or BadFrame."""
    try:
        record = decode(pack(kind, *values))
    except BadFrame:
        return
    hints = get_type_hints(type(record))
    assert dataclasses.is_dataclass(record)
    for field in dataclasses.fields(record):
        check_for(hints[field.name])(getattr(record, field.name))


@given(records, st.integers(0, 400), st.integers(0, 255))
def test_one_byte_changed(record: Record, position: int, byte: int) -> None:
    """A corrupted frame gives a record, nothing yet, or a WireError, nothing else."""
    stream = bytearray(encode(record))
    stream[position % len(stream)] = byte
    with contextlib.suppress(WireError):
        FrameReader(MAX_TO_CLIENT).feed(bytes(stream))


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xc1", id="reserved byte"),
        pytest.param(pack(1, 1, "x")[:-1], id="cut off"),
        pytest.param(pack(1, 1, "x") + b"\x00", id="bytes left over"),
        pytest.param(b"\x91" * 5000 + b"\x01", id="deeper than msgpack's own stack"),
        pytest.param(b"\xdd\xff\xff\xff\xff", id="array of four billion"),
        pytest.param((b"\xdd\x00\x00\xff\xff") * 900, id="large arrays within one another"),
        pytest.param(b"\x93\x01\x01\xa1\xff", id="invalid UTF-8"),
        pytest.param(b"\x92\x63\xd6\xff\x00\x00\x00\x00", id="timestamp extension"),
        pytest.param(b"\x92\x63\xd4\x05\x00", id="another extension"),
        pytest.param(pack({"kind": 1}), id="object as kind"),
        pytest.param(pack(True, 1, "x"), id="bool as kind"),
        pytest.param(pack(-1), id="negative kind"),
        pytest.param(msgpack.packb({"kind": 1}), id="object in place of the array"),
        pytest.param(pack(35, 1, {1: 2}), id="number as key"),
        pytest.param(pack(35, 1, {b"a": 2}), id="bytes as key"),
        pytest.param(pack(1, 1), id="field without default missing"),
        pytest.param(pack(1, True, "x"), id="bool for int"),
        pytest.param(pack(1, 1.0, "x"), id="float for int"),
        pytest.param(pack(1, 1, b"x"), id="bytes for str"),
        pytest.param(pack(1, 1, None), id="null for str"),
        pytest.param(pack(20, 1, ["a", 1]), id="int in an array of text"),
        pytest.param(pack(20, 1, "ab"), id="text for an array"),
        pytest.param(pack(20, 1, [], None, 1), id="int for bool"),
    ],
)
def test_refused(payload: bytes) -> None:
    """Each of these is a BadFrame with a one-line message, and the reader stays closed after it."""
    reader = FrameReader(MAX_TO_DAEMON)
    with pytest.raises(BadFrame) as caught:
        reader.feed(frame(payload))
    assert str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(BadFrame):
        reader.feed(encode(Status(1)))


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth - 1):
        value = {"a": value}
    return value


@pytest.mark.parametrize("kind", [35, 99])
def test_depth(kind: int) -> None:
    """Objects may nest as deep as the limit and not one deeper, in known and unknown kinds."""
    assert decode(pack(kind, 1, nested(MAX_DEPTH)))
    with pytest.raises(BadFrame, match="nesting"):
        decode(pack(kind, 1, nested(MAX_DEPTH + 1)))


def test_field_named() -> None:
    """The message for a wrong type names the record, the field, and both types."""
    with pytest.raises(BadFrame, match="field 'client' of Hello: str expected, int found"):
        decode(pack(1, 1, 7))


def test_too_large_is_refused_before_it_is_buffered() -> None:
    """Four bytes that announce too much are enough to refuse, and nothing is kept."""
    reader = FrameReader(MAX_TO_DAEMON)
    with pytest.raises(FrameTooLarge, match=f"message of {MAX_TO_DAEMON + 1} bytes, where {MAX_TO_DAEMON}"):
        reader.feed(struct.pack(">I", MAX_TO_DAEMON + 1))
    assert reader.pending == 0


def test_largest_frame_passes() -> None:
    """A frame of exactly the limit is accepted, one byte more is not even sent."""
    fill = MAX_TO_DAEMON - len(encode(Hello(1, "x" * 60000))) + 4 + 60000
    largest = encode(Hello(1, "x" * fill), MAX_TO_DAEMON)
    assert len(largest) == MAX_TO_DAEMON + 4
    assert FrameReader(MAX_TO_DAEMON).feed(largest) == [Hello(1, "x" * fill)]
    with pytest.raises(FrameTooLarge):
        encode(Hello(1, "x" * (fill + 1)), MAX_TO_DAEMON)


def test_records_before_a_bad_frame_are_kept() -> None:
    """A good record in the same read as garbage behind it is not lost."""
    with pytest.raises(BadFrame) as caught:
        FrameReader(MAX_TO_CLIENT).feed(encode(Report(1, {"a": 1})) + frame(b"\xc1"))
    assert caught.value.records == [Report(1, {"a": 1})]


def test_pending_counts_a_cut_off_frame() -> None:
    """A stream that ends within a frame is told from one that ends between frames."""
    reader = FrameReader(MAX_TO_DAEMON)
    stream = encode(Status(7)) + encode(Status(8))[:-1]
    assert reader.feed(stream) == [Status(7)]
    assert reader.pending == len(encode(Status(8))) - 1


def test_extra_fields_of_a_newer_version_are_ignored() -> None:
    """A record with more fields than this version knows is decoded to those it knows."""
    assert decode(pack(1, 1, "cli 9.0", "new", [1])) == Hello(1, "cli 9.0")


def test_missing_fields_of_an_older_version_take_their_defaults() -> None:
    """A record without the fields that were appended later is decoded with their defaults."""
    assert decode(pack(10, 3, 4711, ["a"])) == Observe(3, 4711, ("a",), 0.5, None, ())
    assert decode(pack(20, 3)) == Subscribe(3, (), None, False)


def test_unknown_kind() -> None:
    """A kind of a newer version is handed over raw, for the reader to skip."""
    assert decode(pack(9999, 1, ["x"], None)) == Unknown(9999, (1, ["x"], None))


def test_int_for_float() -> None:
    """An integer is welcome where a float is wanted, and arrives as a float."""
    record = decode(pack(14, 1, 2, None, None, 1, 1, 0))
    assert record == Progress(1, 2.0, None, None, 1, 1, 0)
    assert isinstance(record, Progress)
    assert isinstance(record.elapsed_s, float)


def test_text_that_is_not_unicode_is_sent_with_question_marks() -> None:
    """A command line with undecodable bytes (surrogates, in Python) can be sent."""
    assert decode(encode(Observe(1, 2, ("a\udcff",)))[4:]) == Observe(1, 2, ("a?",))


def test_unknown_cannot_be_sent() -> None:
    """A record without a number of its own is a bug of the caller, and fails loudly."""
    with pytest.raises(KeyError):
        encode(Unknown(99, ()))


def test_annotations_without_a_check_are_refused() -> None:
    """A record class with a field type that the codec cannot check fails when it is first used."""
    with pytest.raises(TypeError, match="cannot have a field"):
        check_for(set[int])


def test_large_report_passes() -> None:
    """A report of ten thousand threads goes through in one frame."""
    threads = [
        {"pid": 1, "tid": n, "name": "w", "wall_s": 1.0, "states": {"sleep": 1.0}} for n in range(10_000)
    ]
    report = StatusReply(1, {"threads": threads})
    assert FrameReader(MAX_TO_CLIENT).feed(encode(report)) == [report]
    assert FrameReader(MAX_TO_CLIENT).feed(encode(Dropped(1))) == [Dropped(1)]


def test_records_are_frozen_and_slotted() -> None:
    """Records are values: no field can be set, and none added."""
    record = Observing(1, 2, "2026-01-01T00:00:00Z", 1, 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.threads = 2  # type: ignore[misc]
    for cls in KINDS.values():
        assert hasattr(cls, "__slots__")
        assert "__dict__" not in dir(cls)


@pytest.mark.parametrize("bad", [struct.pack(">I", MAX_TO_DAEMON + 1), struct.pack(">I", 1) + b"\xc1"])
def test_a_reader_that_failed_goes_when_it_is_let_go(bad: bytes) -> None:
    """It says the same at every further call, and keeps no error, whose frames would hold it."""
    gc.collect()
    gc.disable()
    try:
        reader = FrameReader(MAX_TO_DAEMON)
        said = []
        for data in (bad, b"more"):
            with pytest.raises(WireError) as caught:
                reader.feed(data)
            said.append((type(caught.value), str(caught.value)))
            del caught
        assert said[0] == said[1]
        gone = weakref.ref(reader)
        del reader
        assert gone() is None
    finally:
        gc.enable()


SMALL = b"\xdc\x0f\xff" + b"\x80" * 4095  # an array of as many empty objects as one may have


@pytest.mark.parametrize("kind", [9999, 35])
def test_of_a_kind_that_nobody_asks_for_nothing_is_decoded(kind: int) -> None:
    """The daemon would pay for it: 64 KiB of empty objects take 4 MB."""
    payload = b"\xdc\x00\x10" + msgpack.packb(kind) + SMALL * 15
    assert FrameReader(MAX_TO_DAEMON, TO_DAEMON).feed(frame(payload)) == [Unknown(kind, ())]


def test_a_request_has_a_bounded_number_of_elements_in_all() -> None:
    """Not of each array alone; a long command is no hostile one."""
    with pytest.raises(BadFrame, match="elements"):
        FrameReader(MAX_TO_DAEMON, TO_DAEMON).feed(frame(b"\xdc\x00\x10\x22" + SMALL * 15))
    longest = Observe(1, 2, ("x",) * 4096)
    assert FrameReader(MAX_TO_DAEMON, TO_DAEMON).feed(encode(longest)) == [longest]


@given(st.lists(records, max_size=4), st.binary(max_size=40))
def test_what_comes_is_known_before_it_is_decoded(sent: list[Record], rest: bytes) -> None:
    """Its kind and length; nothing raises, whatever follows."""
    reader = FrameReader(MAX_TO_DAEMON)
    reader.keep(b"".join(map(encode, sent)) + rest)
    for record in sent:
        assert reader.coming == (KIND_OF[type(record)], len(encode(record)) - 4)
        assert reader.next() == record
    assert reader.pending == len(rest)
    assert reader.coming[0] is None or len(rest) > 4
    reader.forget()
    assert (reader.pending, reader.coming, reader.next()) == (0, (None, 0), None)


@given(st.binary(max_size=300))
def test_hostile_requests(payload: bytes) -> None:
    """Whatever the daemon is sent is a request, or one of no kind that it knows, or a BadFrame."""
    with contextlib.suppress(BadFrame):
        (record,) = FrameReader(MAX_TO_DAEMON, TO_DAEMON).feed(frame(payload))
        assert isinstance(record, Unknown) or KIND_OF[type(record)] in TO_DAEMON
