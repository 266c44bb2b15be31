"""The format: what is written is read again, and its table only grows."""

from __future__ import annotations

import contextlib
import io
import tracemalloc
import typing
from pathlib import Path
from typing import Any

import msgpack
import pytest
import recording_samples as samples
from hypothesis import given
from hypothesis import strategies as st

from whyidle_daemon import observation
from whyidle_daemon.facts import Overhead, StackSample
from whyidle_daemon.recording.blocks import Flag, block, blocks, unpack
from whyidle_daemon.recording.decoding import Decoder
from whyidle_daemon.recording.encoding import Encoder
from whyidle_daemon.recording.errors import MalformedError
from whyidle_daemon.recording.reader import report
from whyidle_daemon.recording.records import KIND_OF, LAYOUTS, Kind
from whyidle_probes.events import NO_PEER, Library, Slice

NUMBERS = (
    "BEGIN SLICE THREAD FORK EXEC EXIT GAP PROCESS_FACTS MEMORY_SAMPLE SHORT_WAITS STACK_SAMPLE LOOKUP "
    "HOST_NAME LIVE_THREAD THREAD_GONE ENGINE CHECKPOINT END"
)

GPU_NUMBERS = {"ENGINE_SPAN": 32, "GPU_FACTS": 33, "GPU_SAMPLE": 34, "GPU_USE": 35}
MEMORY_NUMBERS = {"INFERENCE": 24, "ENGINE_FACTS": 25, "LIMIT_SAMPLE": 26}
CUDA_NUMBERS = {"CUDA_FACTS": 48, "LAUNCHES_SEEN": 49}
CHAIN_NUMBERS = {"START": 40, "LOOP_TASKS": 41, "SERVING": 42, "TIE": 43}


def test_numbers_are_append_only() -> None:
    """A kind keeps its number for ever."""
    assert [kind.name for kind in sorted(Kind)][: len(NUMBERS.split())] == NUMBERS.split()
    assert [int(kind) for kind in sorted(Kind)][: len(NUMBERS.split())] == list(range(1, 19))
    assert {kind.name: int(kind) for kind in Kind}.items() >= GPU_NUMBERS.items()
    assert {kind.name: int(kind) for kind in Kind}.items() >= MEMORY_NUMBERS.items()
    assert {kind.name: int(kind) for kind in Kind}.items() >= CUDA_NUMBERS.items()
    assert {kind.name: int(kind) for kind in Kind}.items() >= CHAIN_NUMBERS.items()
    assert len({int(kind) for kind in Kind}) == len(Kind.__members__)


@pytest.mark.parametrize("kind", list(Kind))
def test_layout_is_that_of_the_class(kind: Kind) -> None:
    """No field of a record is forgotten: a new one must get a word in the table, at its end."""
    layout = LAYOUTS[kind]
    assert tuple(name for name, _ in layout.fields) == layout.cls._fields
    assert {word for _, word in layout.fields} <= samples.WORDS.keys()


def test_everything_an_observation_takes_is_recorded() -> None:
    """What ``Observation.add`` accepts has a number, but for libraries, which no report mentions."""
    assert set(typing.get_args(observation.Anything)) - {Library} <= KIND_OF.keys()


@pytest.mark.parametrize("kind", list(Kind))
@given(data=st.data())
def test_round_trip(kind: Kind, data: st.DataObject) -> None:
    """Records of every kind come back as they were, whatever is in them, in any order."""
    records = data.draw(st.lists(samples.records_of(kind), min_size=1, max_size=4))
    origin = data.draw(st.integers(0, 1 << 62))
    encoder = Encoder(origin)
    payload = b"".join(encoder.encode(record, kind) for record in records)
    assert list(Decoder(origin).decode(payload, len(records))) == [(kind, record) for record in records]


@given(st.data(), st.integers(0, 20).map(lambda power: 1 << power), st.integers(-1, 1))
def test_a_block_of_any_size_is_read_again(data: st.DataObject, size: int, more: int) -> None:
    """The compressor's tables are as large as the payload; whoever unpacks it need not know."""
    unit = data.draw(st.binary(min_size=1, max_size=4096))
    payload = (unit * (size // len(unit) + 1))[: max(0, size + more)]
    file = io.BytesIO(bytes(16) + block(payload, 1, Flag.END))
    file.seek(16)
    ((header, stored),) = blocks(file)
    assert unpack(header, stored) == payload
    assert (header.plain, header.flags) == (len(payload), Flag.END)


def test_repeated_values_are_written_once() -> None:
    """The peer of every slice of a block costs two bytes after the first."""
    encoder = Encoder(0)
    slice_ = Slice(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 3, 45, 3, NO_PEER)
    assert len(encoder.encode(slice_)) - len(encoder.encode(slice_)) > 30


def test_an_encoder_holds_no_more_than_its_records_need() -> None:
    """There is one for each process observed: 256 KiB each, and new ones each block, made the heap grow."""
    tracemalloc.start()
    try:
        kept = [Encoder(0) for _ in range(100)]
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < len(kept) * 4096
    loop = "x" * 100_000
    assert loop.encode() in kept[0].encode(StackSample(1, 2, 3, None, loop, 3, NO_PEER))  # it grows


@given(st.binary(max_size=200))
def test_random_bytes_decode_or_are_malformed(payload: bytes) -> None:
    """No payload makes the decoder raise anything but its own error."""
    for count in (0, 1, 2):
        with contextlib.suppress(MalformedError):
            list(Decoder(0).decode(payload, count))


_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats()
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=20,
)


@given(st.sampled_from(sorted(Kind)), st.lists(_values, max_size=21))
def test_wrong_fields_are_malformed(kind: Kind, fields: list[Any]) -> None:
    """A record with fields of any other type or number is refused or is a whole record."""
    payload = msgpack.packb([int(kind), *fields])
    try:
        ((found, record),) = Decoder(0).decode(payload, 1)
    except MalformedError:
        return
    assert found == kind
    assert type(record) is LAYOUTS[kind].cls


@pytest.mark.parametrize(
    "payload",
    [
        b"\xdd\xff\xff\xff\xff" * 200,  # arrays that claim four thousand million elements
        b"\x91" * 5000 + b"\x01",  # nested deeper than any stack
        b"\xc7\x04\x01abcd",  # an extension type
        msgpack.packb({"a": 1}),
        msgpack.packb([]),
        msgpack.packb([Kind.THREAD_GONE, -1]),
        msgpack.packb([Kind.THREAD_GONE, True]),
        msgpack.packb([Kind.THREAD_GONE]),
        msgpack.packb([Kind.CHECKPOINT, 1, [0], [float("nan"), 1, None]]),
        msgpack.packb([Kind.CHECKPOINT, -1, [0], [0.0, 1, None]]),
        msgpack.packb([Kind.THREAD_GONE, 1])[:-1],
    ],
)
def test_hostile_payloads(payload: bytes) -> None:
    """Claims, nesting, extensions, negative numbers and NaN are refused before they cost anything."""
    with pytest.raises(MalformedError):
        list(Decoder(0).decode(payload, 1))


def test_newer_records_are_skipped() -> None:
    """Kinds and fields of a newer version do not disturb; what an older one lacks has its default."""
    newer = msgpack.packb([999, "what"]) + msgpack.packb([int(Kind.THREAD_GONE), 7, "more"])
    assert [tuple(record) for _, record in Decoder(0).decode(newer, 2)] == [(7,)]
    older = msgpack.packb([int(Kind.STACK_SAMPLE), 1, 2, 3, ["f", "a.py", None, []]])
    ((_, sample),) = Decoder(0).decode(older, 1)
    assert isinstance(sample, StackSample)
    assert sample.loop == ""
    overhead = msgpack.packb([int(Kind.CHECKPOINT), 5, [1, 2], [0.5, 7]])
    ((_, checkpoint),) = Decoder(0).decode(overhead, 1)
    assert checkpoint.overhead == Overhead(0.5, 7, None)
    assert checkpoint.loss.slices_lost == 1


def test_replayed_report_is_the_live_one(tmp_path: Path) -> None:
    """Field by field the same, with the exit status, the losses and the cost."""
    live = samples.record(tmp_path / "a.rec")
    assert report(tmp_path / "a.rec") == live
    assert live["recording"] == {"complete": True, "reason": None}
    assert live["engines"][0]["busy_s"] == pytest.approx(1.8)
