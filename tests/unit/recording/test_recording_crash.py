"""Recordings that end early, are damaged, or are none: a report as far as they go, or one named error."""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import recording_samples as samples
from hypothesis import given
from hypothesis import strategies as st

from whyidle_daemon import config, replay
from whyidle_daemon.recording import reader
from whyidle_daemon.recording.blocks import MAX_BLOCK, Codec, Flag, block, file_header
from whyidle_daemon.recording.encoding import Encoder
from whyidle_daemon.recording.errors import (
    CannotRead,
    DamagedRecording,
    EmptyRecording,
    NewerRecording,
    NotARecording,
    RecordingError,
    TruncatedRecording,
)
from whyidle_daemon.recording.records import Begin, Kind, ThreadGone
from whyidle_probes.events import Thread, Wait
from whyidle_probes.loader import ProbeConfig

SECONDS = 5


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "a.rec"
    samples.record(path, SECONDS)
    return path.read_bytes()


def read(folder: Path, data: bytes) -> dict[str, Any]:
    path = folder / "b.rec"
    path.write_bytes(data)
    return reader.report(path)


def test_cut_at_every_byte(tmp_path: Path, whole: bytes) -> None:
    """A prefix of any length is reported on up to its last whole block, and a longer one never says less."""
    before, durations = -1.0, []
    for length in range(len(whole)):
        try:
            report = read(tmp_path, whole[:length])
        except (EmptyRecording, TruncatedRecording):
            assert before < 0, f"{length} bytes say less than {length - 1}"
            continue
        assert not report["recording"]["complete"]
        assert report["recording"]["reason"]
        assert report["target"]["duration_s"] >= before
        before = report["target"]["duration_s"]
        durations.append(before)
    assert sorted(set(durations)) == [float(second) for second in range(1, SECONDS + 1)]
    assert len(durations) > len(whole) / 2


def test_prefix_is_the_report_of_that_moment(tmp_path: Path, whole: bytes) -> None:
    """What a crash leaves is what a live report would have said at the last checkpoint."""
    third = samples.headers(whole)[3].offset
    cut = read(tmp_path, whole[:third])
    live = samples.record(tmp_path / "short.rec", 3, finish=False)
    live["target"]["exit_status"] = None
    cut.pop("recording"), live.pop("recording")
    assert cut == live


def test_records_after_the_last_checkpoint_do_not_count(tmp_path: Path, whole: bytes) -> None:
    """Without totals to go with they would only contradict them."""
    start = samples.headers(whole)[-1].offset
    late = Encoder(samples.timeline.START)
    fork = late.encode(samples.timeline.born(5000, samples.timeline.PID, samples.timeline.START + 10**12))
    report = read(tmp_path, whole[:start] + block(fork, 1))
    assert report["recording"] == {"complete": False, "reason": reader.NO_END}
    assert [process["pid"] for process in report["processes"]] == [samples.timeline.PID]


@pytest.mark.parametrize("number", range(1, SECONDS + 2))
def test_damage_in_any_block(tmp_path: Path, whole: bytes, number: int) -> None:
    """Any changed byte of a block is noticed, named, and costs what comes after it and nothing before."""
    header = samples.headers(whole)[number - 1]
    for at in range(header.offset, header.offset + 20 + header.stored):
        data = bytearray(whole)
        data[at] ^= 0x10
        if number == 1:
            with pytest.raises((DamagedRecording, TruncatedRecording)):
                read(tmp_path, bytes(data))
            continue
        report = read(tmp_path, bytes(data))
        assert f"block {number} " in report["recording"]["reason"]
        assert report["target"]["duration_s"] == number - 1


@given(st.binary(max_size=300))
def test_random_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """No file makes the reader raise anything but a named error, also with a right beginning."""
    folder = tmp_path_factory.getbasetemp()
    for start in (b"", file_header()):
        with pytest.raises(RecordingError):
            read(folder, start + data)


@given(payload=st.binary(max_size=300), records=st.integers(0, 3), flags=st.integers(0, 3))
def test_random_payloads_with_right_checksums(
    tmp_path_factory: pytest.TempPathFactory, whole: bytes, payload: bytes, records: int, flags: int
) -> None:
    """A forged block is one named error as the first, and ends a recording as a later one."""
    folder = tmp_path_factory.getbasetemp()
    forged = block(payload, records, Flag(flags))
    with pytest.raises(RecordingError):
        read(folder, file_header() + forged)
    second = samples.headers(whole)[1].offset
    assert read(folder, whole[:second] + forged)["target"]["duration_s"] == 1


@given(st.lists(samples.told, max_size=8), st.lists(samples.records_of(Kind.LIVE_THREAD), max_size=3))
def test_impossible_records_with_right_checksums(
    tmp_path_factory: pytest.TempPathFactory, records: list[Any], threads: list[Any]
) -> None:
    """Records of the right shape that cannot have happened give some report, or one named error."""
    encoder = Encoder(0)
    begin = Begin(1 << 40, (1,), ("x",), "now", 4096, samples.HOST, "1")
    parts = [encoder.encode(begin, Kind.BEGIN), *map(encoder.encode, records)]
    parts += [encoder.encode(thread, Kind.LIVE_THREAD) for thread in threads]
    totals = samples.LAYOUTS[Kind.CHECKPOINT].cls(1 << 41, samples.Loss(), samples.COST)
    parts.append(encoder.encode(totals, Kind.CHECKPOINT))
    data = file_header() + block(b"".join(parts), len(parts), Flag.CHECKPOINT)
    try:
        report = read(tmp_path_factory.getbasetemp(), data)
    except DamagedRecording:
        return
    assert report["schema"] == "whyidle.report/1"


def forge(stored: bytes, plain: int, codec: int = Codec.ZLIB, flags: int = 1) -> bytes:
    """A file of one block that says what it likes, with right checksums."""
    start = struct.pack("<IIIBBH", len(stored), plain, 1, codec, flags, 0)
    return file_header() + start + struct.pack("<I", zlib.crc32(stored, zlib.crc32(start))) + stored


@pytest.mark.parametrize(
    "data",
    [
        forge(zlib.compress(bytes(500 << 20), 1)[:MAX_BLOCK], 100),
        forge(zlib.compress(bytes(1000)), 999),
        forge(zlib.compress(bytes(1000)), 1001),
        forge(zlib.compress(bytes(1000))[:-6], 1000),
        forge(zlib.compress(bytes(1000)) + b"x", 1000),
        forge(b"no zlib", 1000),
        forge(b"", MAX_BLOCK + 1),
        forge(b"abc", 4, Codec.PLAIN),
        forge(b"\xc0" * 3, 3, codec=9),
    ],
    ids=["bomb", "longer", "shorter", "cut", "tail", "noise", "claims", "plain", "codec"],
)
def test_blocks_that_lie(tmp_path: Path, data: bytes) -> None:
    """A block that does not decompress to what it announced is refused, and never costs more than that."""
    with pytest.raises(DamagedRecording):
        read(tmp_path, data)


def crowd(kind: Kind, count: int, gone: int = 0) -> bytes:
    """A recording of so many threads, processes or engines, of which some go at once."""
    start, late = samples.timeline.START, samples.timeline.START + 10**12
    steps = [samples.timeline.infer(10**8), samples.timeline.asleep(Wait.SLEEP, 10**9)]
    life = samples.timeline.life(steps, open_last=True)
    assert life.engine is not None
    encoder = Encoder(0)  # times of the first block
    begin = Begin(start, (1,), ("x",), "now", 4096, samples.HOST, "1")
    parts = [encoder.encode(begin, Kind.BEGIN)]
    for number in range(2, count + 2):
        if kind == Kind.LIVE_THREAD:
            parts.append(encoder.encode(life.thread._replace(tid=number), kind))
            if number < gone + 2:
                parts.append(encoder.encode(ThreadGone(number), Kind.THREAD_GONE))
        elif kind == Kind.FORK:
            parts.append(encoder.encode(samples.timeline.born(number, 1, start + number * 10**6)))
        else:
            parts.append(encoder.encode(life.engine._replace(context=number), kind))
    totals = samples.LAYOUTS[Kind.CHECKPOINT].cls(late, samples.Loss(), samples.COST)
    parts.append(encoder.encode(totals, Kind.CHECKPOINT))
    return file_header() + block(b"".join(parts), len(parts), Flag.CHECKPOINT)


@pytest.mark.parametrize(
    ("kind", "what"),
    [(Kind.LIVE_THREAD, "threads"), (Kind.FORK, "processes"), (Kind.ENGINE, "engines")],
)
def test_crowds_that_no_kernel_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind, what: str
) -> None:
    """A small file that would take all memory is refused as soon as it is more than can be."""
    monkeypatch.setattr(reader, f"MAX_{what.upper()}", 50)
    own = 1 if kind == Kind.FORK else 0  # the root
    assert read(tmp_path, crowd(kind, 50 - own))["schema"] == "whyidle.report/1"
    with pytest.raises(DamagedRecording, match=f"more than 50 {what}"):
        read(tmp_path, crowd(kind, 51 - own))


def test_many_checkpoints_of_a_crowd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the last one's threads are put in order."""
    ordered: list[int] = []

    def counted(threads: Iterable[Thread]) -> tuple[Thread, ...]:
        found = tuple(threads)
        ordered.append(len(found))
        return found

    monkeypatch.setattr(reader, "ordered", counted)
    start = samples.timeline.START
    late = samples.LAYOUTS[Kind.CHECKPOINT].cls(10**12, samples.Loss(), samples.COST)
    more = block(Encoder(start).encode(late, Kind.CHECKPOINT), 1, Flag.CHECKPOINT)
    assert read(tmp_path, crowd(Kind.LIVE_THREAD, 50) + 100 * more)["schema"] == "whyidle.report/1"
    forged = block(b"\xc1", 1, Flag.CHECKPOINT)
    assert (
        "malformed" in read(tmp_path, crowd(Kind.LIVE_THREAD, 50) + 9 * more + forged)["recording"]["reason"]
    )
    assert ordered == [50, 50]


def test_threads_that_went_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_THREADS", 50)
    assert read(tmp_path, crowd(Kind.LIVE_THREAD, 90, gone=40))["schema"] == "whyidle.report/1"


def test_real_crowds_have_room() -> None:
    """As many as the daemon lets the kernel's maps have."""
    assert config.MAX_THREADS < reader.MAX_THREADS
    assert ProbeConfig().max_processes < reader.MAX_PROCESSES


def test_a_recording_that_takes_all_memory_is_damaged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def taking(path: str) -> dict[str, Any]:
        raise MemoryError

    monkeypatch.setattr(replay, "report", taking)
    assert replay.main(["a.rec"]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["situation"], error["message"][:16]) == ("DamagedRecording", "a.rec is damaged")


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", EmptyRecording),
        (b"\x89why", TruncatedRecording),
        (file_header(), TruncatedRecording),
        (file_header()[:-1], TruncatedRecording),
        (b"\x7fELF" + bytes(100), NotARecording),
        (file_header(version=2), NewerRecording),
        (file_header(version=2) + bytes(100), NewerRecording),
        (file_header(version=0), DamagedRecording),
        (file_header()[:-1] + b"\0", DamagedRecording),
    ],
)
def test_what_is_no_recording(tmp_path: Path, data: bytes, error: type[RecordingError]) -> None:
    """Empty, foreign, newer, cut and damaged beginnings are each their own error, with a next step."""
    with pytest.raises(error) as caught:
        read(tmp_path, data)
    assert caught.value.hint
    assert "\n" not in str(caught.value).replace(str(tmp_path), "")


def test_what_is_no_file(tmp_path: Path) -> None:
    """A directory, a FIFO without a writer, a missing file and an impossible name end at once."""
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", tmp_path / "none", "a\0b"):
        with pytest.raises(CannotRead):
            reader.report(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_that_may_not_be_read(tmp_path: Path) -> None:
    """Permission denied is a named error."""
    (tmp_path / "a").touch(mode=0)
    with pytest.raises(CannotRead):
        reader.report(tmp_path / "a")
