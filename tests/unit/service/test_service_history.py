"""The files of the history and the report over several: nothing in excess, nothing lost that fits."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
import report_schema
from hypothesis import given
from hypothesis import strategies as st

from harness import wait_until
from whyidle_cli.main import main
from whyidle_daemon.config import History
from whyidle_daemon.history.heartbeat import Heartbeat, blind_ns, now_ns
from whyidle_daemon.history.merge import merged
from whyidle_daemon.history.merge_host import Span, highest
from whyidle_daemon.history.store import LEAST_BYTES, Store, parts
from whyidle_daemon.recording.blocks import Flag
from whyidle_daemon.recording.output import Output

SAMPLE = json.loads((Path(__file__).parents[1] / "cli" / "sample_report.json").read_text())
NOW = 1_800_000_000.0
MIB = 1 << 20


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def test_a_part_is_a_file_for_root_and_the_group(tmp_path: Path) -> None:
    """Named by when it began; two of one second and process do not meet."""
    clock = Clock()
    before = os.umask(0o077)  # as in the unit
    try:
        store = Store(tmp_path, History(), clock)
        outputs = [store.new(42) for _ in range(3)]
    finally:
        os.umask(before)
    for output in outputs:
        assert output is not None
        output.close(5)
        assert Path(output.path).stat().st_mode & 0o777 == 0o640
    found = parts(store.folder)
    assert len({part.path for part in found}) == 3
    assert {(part.pid, part.begun_s) for part in found} == {(42, NOW)}
    assert store.folder.stat().st_mode & 0o777 == 0o750


def test_the_oldest_goes_first(tmp_path: Path) -> None:
    """Too old, or more than there is room for; what is not of the history is not touched."""
    clock = Clock()
    store = Store(tmp_path, History(max_megabytes=32, max_age_days=1.0), clock)
    for hour in range(30):  # 30 hours, 2 MiB each
        path = store.folder / f"202701{14 + hour // 24:02}T{hour % 24:02}0000Z-{hour}-1.rec"
        path.write_bytes(bytes(2 * MIB))
        os.utime(path, (NOW - (29 - hour) * 3600,) * 2)
    (store.folder / "notes.txt").write_text("mine")
    (store.folder / "20270101T000000Z-1-1.rec").symlink_to("/etc/passwd")
    store.prune()
    left = parts(store.folder)
    assert [part.pid for part in left] == list(range(14, 30))  # 16 x 2 MiB = 32 MiB
    store.config = History(max_megabytes=32, max_age_days=0.25)
    store.prune()
    assert [part.pid for part in parts(store.folder)] == list(range(23, 30))
    assert (store.folder / "notes.txt").exists()
    assert (store.folder / "20270101T000000Z-1-1.rec").is_symlink()


def test_many_small_parts_have_their_share_of_the_room(tmp_path: Path) -> None:
    """Programs that live for a second leave a file each: those are bounded, and looked at once."""
    clock = Clock()
    store = Store(tmp_path, History(max_megabytes=32), clock, clock)
    most = (32 * MIB) // LEAST_BYTES
    for number in range(2 * most):
        minutes, seconds = divmod(number, 60)
        path = store.folder / f"20270114T{minutes // 60:02}{minutes % 60:02}{seconds:02}Z-{number}-1.rec"
        path.touch()
        os.utime(path, (NOW, NOW))
    store.prune()
    left = [part.pid for part in parts(store.folder)]
    assert left == list(range(2 * most - len(left), 2 * most))
    assert 0.95 * most < len(left) <= most
    listed: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.scandir", listed.append)
        for _ in range(most - len(left)):  # there is room for so many
            output = store.new(7)
            assert output is not None
            output.close(5)
            os.utime(output.path, (NOW, NOW))
            store.prune()
    assert not listed
    output = store.new(7)
    assert output is not None
    output.close(5)
    os.utime(output.path, (NOW, NOW))
    store.prune()
    found = parts(store.folder)
    assert 0.95 * most < len(found) <= most
    assert found[-1].pid == 7
    clock.now = NOW + 8 * 86400
    store.prune()
    assert parts(store.folder) == []


def test_a_look_that_removes_nothing_takes_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be ten thousand files, and a reload looks at them all; one that changes nothing at none."""
    store = Store(tmp_path, History(max_megabytes=32), Clock())
    path = store.folder / "20270115T080000Z-1-1.rec"
    path.touch()
    os.utime(path, (NOW, NOW))
    monkeypatch.setattr("whyidle_daemon.history.store.parts", None)  # the list of them
    store.prune()
    store.config = History(max_megabytes=64)
    store.prune()
    monkeypatch.setattr("os.scandir", None)
    store.config = History(max_megabytes=64)
    store.prune()
    assert path.exists()


def test_what_is_being_written_stays(tmp_path: Path) -> None:
    """However little room there is: it is the part that somebody will ask for."""
    clock = Clock()
    store = Store(tmp_path, History(max_megabytes=32, max_age_days=0.001), clock, clock)
    output = store.new(1)
    assert output is not None
    os.utime(output.path, (NOW - 10 * 86400,) * 2)
    store.prune()
    assert Path(output.path).exists()
    output.close(5)
    os.utime(output.path, (NOW - 10 * 86400,) * 2)
    clock.now += 3600
    store.prune()
    assert not Path(output.path).exists()


def fill(output: Output, size: int) -> None:
    """Blocks of noise, which does not compress, until it has that size or may not have more."""
    while output.failure is None and output.size < size:
        before = output.size
        output.put(os.urandom(1 << 16), 1, Flag(0))
        wait_until(lambda: output.size > before or output.failure, "the disk")  # noqa: B023


def test_what_is_written_leaves_room_for_what_is_over(tmp_path: Path) -> None:
    """However many observations there are, of the daemon and of clients: all together keep to the setting."""
    store = Store(tmp_path, History(max_megabytes=32), Clock())
    writing: list[tuple[Output, bool]] = []
    for number in range(64):
        output = store.new(1, whole=number % 2 == 0)
        if output is not None:
            writing.append((output, number % 2 == 0))
    assert sum(not whole for _, whole in writing) == 32
    assert sum(whole for _, whole in writing) >= 8  # of which there are 8 for each user
    for output, whole in writing:
        fill(output, 32 * MIB if whole else store.part_bytes)
    everything = sum(output.size for output, _ in writing)
    assert 12 * MIB < everything < 0.9 * 32 * MIB
    for output, _ in writing:
        output.close(5)
    assert store.new(1) is not None
    assert store.part_bytes == MIB


class Disk:
    """What ``statvfs`` says of one: size and free room in bytes."""

    def __init__(self, size: int, free: int) -> None:
        self.f_frsize, self.f_blocks, self.f_bavail = 1, size, free


def test_the_history_gives_way_before_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk smaller than the setting: the oldest goes, so that a twentieth of it stays free."""
    store = Store(tmp_path, History(max_megabytes=1024), Clock())
    for number in range(10):
        path = store.folder / f"20270115T00000{number}Z-{number}-1.rec"
        path.write_bytes(bytes(MIB))
        os.utime(path, (NOW, NOW))
    disk = Disk(100 * MIB, 5 * MIB)
    monkeypatch.setattr("os.statvfs", lambda _: disk)
    store.prune()
    assert len(parts(store.folder)) == 10
    disk.f_bavail = 2 * MIB
    store.prune()
    assert [part.pid for part in parts(store.folder)] == list(range(3, 10))
    disk.f_bavail = 0  # others filled it
    store.prune()
    assert [part.pid for part in parts(store.folder)] == list(range(8, 10))


def test_no_room_to_write_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A state directory that cannot be used costs the history, and one line."""
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file", History(), Clock())
    assert store.new(1) is None
    assert store.new(1) is None
    assert caplog.text.count("nothing is kept") == 1
    assert Store(tmp_path, History(enabled=False), Clock()).new(1) is None


def test_blind_time() -> None:
    """From the last beat or the start of the process, whichever was later, to the new observation."""
    assert blind_ns(started_ns=10, last_seen_ns=50, began_ns=80) == 30
    assert blind_ns(started_ns=60, last_seen_ns=50, began_ns=80) == 20
    assert blind_ns(started_ns=90, last_seen_ns=50, began_ns=80) == 0


def test_a_beat_of_another_boot_tells_nothing(tmp_path: Path) -> None:
    """Nor does one that is no beat, whoever wrote it."""
    boot = tmp_path / "boot"
    boot.write_text("one\n")
    beat = Heartbeat(tmp_path, boot)
    assert beat.last_ns() is None
    beat.beat()
    assert 0 <= now_ns() - (beat.last_ns() or 0) < 60e9
    boot.write_text("two\n")
    assert beat.last_ns() is None
    for text in (
        "",
        "[]",
        "{}",
        '{"boot": "two", "monotonic_ns": "x"}',
        '{"boot": "two", "monotonic_ns": 1e99}',
    ):
        (tmp_path / "last-seen").write_text(text)
        assert beat.last_ns() is None


def part(at: str, **changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = copy.deepcopy(SAMPLE)
    found["target"]["started_at"] = at
    found["recording"] = {"complete": True, "reason": None}
    for kind in ("processes_omitted", "threads_omitted"):
        found.pop(kind, None)
    return found | changes


def test_one_part_is_its_own_report() -> None:
    """Merging changes nothing then."""
    one = part("2026-11-26T10:00:00Z")
    assert merged([one]) == one
    with pytest.raises(ValueError, match="nothing"):
        merged([])


def test_sums_of_two_parts() -> None:
    """Whatever order they come in; the equations of the contract hold for the sum."""
    first, second = part("2026-11-26T10:00:00Z"), part("2026-11-26T10:10:00Z")
    for reports in ([first, second], [second, first]):
        both = merged(copy.deepcopy(reports))
        report_schema._VALIDATOR.validate(both)
        assert both["target"]["duration_s"] == pytest.approx(600 + second["target"]["duration_s"])
        assert both["target"]["started_at"] == "2026-11-26T10:00:00Z"
        assert len(both["threads"]) == len(first["threads"])
        for thread in both["threads"]:
            assert sum(thread["states"].values()) == pytest.approx(thread["wall_s"], rel=1e-3)
        for engine, before in zip(both["engines"], first["engines"], strict=True):
            assert engine["busy_s"] == pytest.approx(2 * before["busy_s"])
            assert engine["idle_s"] == pytest.approx(2 * before["idle_s"])
        assert sum(c["seconds"] for c in both["idle_by_cause"]) == pytest.approx(
            2 * sum(c["seconds"] for c in first["idle_by_cause"])
        )
        assert len(both["findings"]) == len(first["findings"])
        for kind in {f["kind"] for f in first["findings"]}:
            once = sum(f["blocked_s"] for f in first["findings"] if f["kind"] == kind)
            twice = sum(f["blocked_s"] for f in both["findings"] if f["kind"] == kind)
            assert twice == pytest.approx(2 * once)
        assert "2 parts of the history" in both["findings"][0]["advice"]
        assert both["loss"]["events_lost"] == 2 * first["loss"]["events_lost"]


def test_what_is_of_the_whole_host_is_told_once() -> None:
    """Four agents beside one daemon: its restart, its cost and what it lost are not four times as much."""
    parts = []
    for pid in (1, 2, 3, 4):
        for hour in (10, 11):
            one = part(f"2026-11-26T{hour}:00:00Z")
            one["target"] |= {"pid": pid, "duration_s": 3600.0003}
            one["loss"] = dict.fromkeys(one["loss"], 0) | {"events_lost": 100, "stacks_lost": 3}
            one["loss"]["seconds_blind"] = 0.8 if hour == 11 else 0.0
            one["overhead"] = {"daemon_cpu_s": 5.0, "daemon_rss_bytes": pid, "bpf_run_s": None}
            parts.append(one)
    both = merged(parts)
    assert both["loss"]["events_lost"] == 200
    assert both["loss"]["stacks_lost"] == 24  # each target has its own reader
    assert both["loss"]["seconds_blind"] == pytest.approx(0.8)
    assert both["overhead"]["daemon_cpu_s"] == pytest.approx(10, rel=1e-5)
    assert both["overhead"]["daemon_rss_bytes"] == 4
    assert both["overhead"]["bpf_run_s"] is None


def test_blind_before_an_agent_began_and_before_a_restart() -> None:
    """Different times of nobody watching add up, the same one does not."""
    parts = [
        part("2026-11-26T10:00:00Z"),
        part("2026-11-26T10:00:00.100Z"),
        part("2026-11-26T10:10:00Z"),
    ]
    for one, blind_s in zip(parts, (0.5, 0.5, 0.25), strict=True):
        one["loss"]["seconds_blind"] = blind_s
    assert merged(parts)["loss"]["seconds_blind"] == pytest.approx(0.6 + 0.25)


SPANS = st.lists(
    st.tuples(st.floats(0, 100), st.floats(0, 50), st.floats(0, 1000)).map(
        lambda s: (s[0], s[0] + s[1], s[2])
    ),
    max_size=12,
)


@given(SPANS)
def test_what_overlaps_is_at_least_the_largest_and_at_most_the_sum(spans: list[Span]) -> None:
    """Whatever the spans; one is itself, and what does not overlap adds up."""
    amounts = [amount for *_, amount in spans]
    assert max(amounts, default=0) * (1 - 1e-6) - 1e-9 <= highest(spans) <= sum(amounts) * (1 + 1e-6) + 1e-9
    apart = [(number * 200 + begin, number * 200 + end, a) for number, (begin, end, a) in enumerate(spans)]
    assert highest(apart) == pytest.approx(sum(amounts), rel=1e-6, abs=1e-9)


def test_what_an_engine_did_in_three_parts() -> None:
    """Counts and seconds are summed, peaks are peaks; a percentile of one part is none of all."""
    parts = []
    for number in (1, 2, 3):
        one = part(f"2026-11-26T10:{number}0:00Z")
        engine = {
            **one["engines"][0],
            "id": "llama:1",
            "calls": number,
            "failed_calls": number,
            "calls_unseen_s": float(number),
            "latency_s": {"count": number, "p50": 1.0, "p95": 1.0, "p99": 1.0},
            "tokens": {"prompt": number, "decoded": 10, "prompt_s": 0.5, "decode_s": 1.0},
            "context": {"size": 512, "fill": number, "fill_peak": 100 - number},
            "drivers": [number],
            "inferences": [
                {"start_s": at, "latency_s": 1.0, "prompt_tokens": 1, "decoded_tokens": 1, "fill": 1}
                for at in range(60)
            ],
        }
        gpu = {
            **one["engines"][0],
            **{
                "id": "GPU-0",
                "latency_s": None,
                "memory_peak_bytes": 10 * number,
                "throttled": {"heat": 1.0},
            },
            **{"copy_s": 1.0, "idle_scattered_s": 2.0, "unseen_s": 3.0, "other_processes": 4 - number},
            **{"busy_s": 1.0, "idle_s": number - 1.0, "power_mean_w": 100.0 * number, "unknown": ["power"]},
            "processes": [{"pid": 7, "memory_peak_bytes": 40 - number}],
        }
        parts.append({**one, "engines": [engine, gpu]})
    both = merged(parts)
    report_schema._VALIDATOR.validate(both)
    engine, gpu = both["engines"]
    assert (engine["calls"], engine["failed_calls"], engine["calls_unseen_s"]) == (6, 6, 6.0)
    assert engine["latency_s"] is None
    assert engine["tokens"] == {"prompt": 6, "decoded": 30, "prompt_s": 1.5, "decode_s": 3.0}
    assert engine["context"] == {"size": 512, "fill": 3, "fill_peak": 99}
    assert engine["drivers"] == [1, 2, 3]
    starts = [span["start_s"] for span in engine["inferences"]]
    assert len(starts) == 100
    assert starts == sorted(starts)
    assert starts[-1] > 1200
    assert (gpu["copy_s"], gpu["idle_scattered_s"], gpu["unseen_s"]) == (3.0, 6.0, 9.0)
    assert (gpu["memory_peak_bytes"], gpu["other_processes"], gpu["throttled"]) == (30, 3, {"heat": 1.0})
    assert gpu["power_mean_w"] == pytest.approx((100 * 1 + 200 * 2 + 300 * 3) / 6)
    assert gpu["processes"] == [{"pid": 7, "memory_peak_bytes": 39}]
    assert parts[0]["engines"][0]["inferences"][0]["start_s"] == 0  # the parts stay as they were


def test_a_gap_over_the_cut_is_one() -> None:
    """The hang that lasts for hours is not told in pieces."""
    cause = {"state": "network", "share": 1.0, "pid": 1, "tid": 1, "function": "f", "peer": None}
    sleep = {**cause, "state": "sleep"}
    gap = {"engine": "e", "start_s": 590.0, "duration_s": 10.0, "causes": [cause], "open": True}
    next_ = {"engine": "e", "start_s": 0.0, "duration_s": 30.0, "causes": [sleep], "open": False}
    both = merged([part("2026-11-26T10:00:00Z", gaps=[gap]), part("2026-11-26T10:10:00Z", gaps=[next_])])
    (whole,) = both["gaps"]
    assert (whole["start_s"], whole["duration_s"], whole["open"]) == (590.0, 40.0, False)
    assert {c["state"]: c["share"] for c in whole["causes"]} == {"sleep": 0.75, "network": 0.25}
    apart = merged([part("2026-11-26T10:00:00Z", gaps=[gap]), part("2026-11-26T10:10:05Z", gaps=[next_])])
    assert len(apart["gaps"]) == 2


def test_what_is_not_whole_is_said() -> None:
    """One part that was cut off makes the report incomplete."""
    broken = part("2026-11-26T10:10:00Z", recording={"complete": False, "reason": "cut off"})
    both = merged([part("2026-11-26T10:00:00Z"), broken])
    assert both["recording"] == {"complete": False, "reason": "1 of 2 parts: cut off"}


@given(st.lists(st.integers(0, 59), min_size=1, max_size=4, unique=True), st.integers(0, 250))
def test_merging_any_number(minutes: list[int], causes: int) -> None:
    """The number of causes is bounded, and their seconds are all there."""
    reports = []
    for minute in minutes:
        rows = [
            {
                "state": "network",
                "seconds": 1.0,
                "share": 0,
                "pid": 1,
                "function": f"f{minute}{n}",
                "peer": None,
            }
            for n in range(causes)
        ]
        reports.append(part(f"2026-11-26T10:{minute:02}:00Z", idle_by_cause=rows))
    found = merged(reports)["idle_by_cause"]
    assert len(found) <= 251 if len(minutes) == 1 else len(found) <= 201
    assert sum(cause["seconds"] for cause in found) == pytest.approx(causes * len(minutes))


@pytest.mark.parametrize(
    "arguments",
    [["--since", "soon"], ["--since", "-1h"], ["--since", "nan"], ["--since", "2h", "x.rec"], ["--pid", "1"]],
)
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Times that are none, a file beside --since, a filter without it."""
    try:
        code = main(["report", *arguments])
    except SystemExit as left:
        code = left.code  # type: ignore[assignment]
    assert code == 2
    assert capsys.readouterr().err


def test_nothing_to_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No directory, and nothing in it: two lines each."""
    assert main(["report", "--since", "1h", "--state", str(tmp_path)]) == 1
    assert "cannot read the history" in capsys.readouterr().err
    (tmp_path / "recordings").mkdir()
    (tmp_path / "recordings/20270101T000000Z-1-1.rec").write_text("no recording")
    assert main(["report", "--since", "1h", "--pid", "7", "--state", str(tmp_path)]) == 1
    said = capsys.readouterr().err.splitlines()
    assert "nothing of pid 7 in that time" in said[0]
    assert len(said) == 2


CAUSE = {"state": "network", "share": 1.0, "pid": 1, "tid": 1, "function": "f", "peer": None}


def gap(engine: str, start: float, duration: float, is_open: bool) -> dict[str, Any]:
    return {"engine": engine, "start_s": start, "duration_s": duration, "causes": [CAUSE], "open": is_open}


def of(pid: int, at: str, **changes: Any) -> dict[str, Any]:
    found = part(at, **changes)
    found["target"]["pid"] = pid
    return found


def test_gaps_of_two_targets_are_kept_apart() -> None:
    """Parts of another in between cut none, and what one was open with is not continued by the other."""
    parts = [
        of(1, "2026-11-26T10:00:00Z", gaps=[gap("A", 0.0, 600.0, True), gap("nvml:0", 590.0, 10.0, True)]),
        of(2, "2026-11-26T10:00:03Z", gaps=[gap("nvml:0", 2.0, 1.0, False)]),
        of(1, "2026-11-26T10:10:00Z", gaps=[gap("A", 0.0, 600.0, True)]),
        of(2, "2026-11-26T10:10:03Z", gaps=[]),
    ]
    found = {(one["engine"], one["start_s"], one["duration_s"]) for one in merged(parts)["gaps"]}
    assert found == {("A", 0.0, 1200.0), ("nvml:0", 590.0, 10.0), ("nvml:0", 5.0, 1.0)}


def shared_gpu(pid: int, busy_s: float, idle_s: float) -> dict[str, Any]:
    """As each target's report has it: with the PID of its own process, and what only a GPU has."""
    gpu = {**SAMPLE["engines"][0], "id": "nvml:0", "pid": pid, "latency_s": None, "copy_s": 0.0}
    return {**gpu, "busy_s": busy_s, "idle_s": idle_s}


def test_a_gpu_that_two_targets_share_has_each_second_once() -> None:
    """Both observed it, all the time."""
    parts = [
        of(pid, f"2026-11-26T10:{minute}0:0{pid}Z", engines=[shared_gpu(pid, 200.0, 400.0)])
        for minute in (0, 1)
        for pid in (1, 2)
    ]
    (engine,) = merged(parts)["engines"]
    # From the first one's begin to the second one's end, a second more.
    assert engine["busy_s"] == pytest.approx(400 + 1 / 3)
    assert engine["idle_s"] == pytest.approx(800 + 2 / 3)


@pytest.mark.parametrize(
    ("pieces", "busy", "idle"),
    [
        ([(1, 0, 0.0, 5.0), (2, 1, 550.0, 50.0)], 550 * 596 / 600, 5 + 50 * 596 / 600),
        ([(1, 0, 300.0, 300.0), (2, 595, 0.0, 600.0), (1, 600, 5.0, 0.0)], 300.0, 300 + 595.0),
    ],
)
def test_seconds_of_a_shared_gpu_that_only_one_target_saw(
    pieces: list[tuple[int, int, float, float]], busy: float, idle: float
) -> None:
    """A short program beside a long one hides nothing of it; where parts overlap, each has its share."""
    parts = []
    for pid, at, busy_s, idle_s in pieces:
        when = f"2026-11-26T10:{at // 60:02}:{at % 60:02}Z"
        parts.append(of(pid, when, engines=[shared_gpu(pid, busy_s, idle_s)]))
    (engine,) = merged(parts)["engines"]
    assert (engine["busy_s"], engine["idle_s"]) == (pytest.approx(busy), pytest.approx(idle))


def test_two_targets_that_use_a_gpu_in_turn() -> None:
    """Each has its own seconds, also where both were observed all the time; what they share counts once."""
    first = {**shared_gpu(1, 100.0, 100.0), "start_s": 0.0, "end_s": 200.0}
    second = {**shared_gpu(2, 50.0, 150.0), "start_s": 300.0, "end_s": 500.0}
    third = {**shared_gpu(3, 40.0, 0.0), "start_s": 180.0, "end_s": 220.0}  # half of it beside the first
    inside = {**shared_gpu(4, 60.0, 0.0), "start_s": 310.0, "end_s": 370.0}
    parts = [of(gpu["pid"], "2026-11-26T10:00:00Z", engines=[gpu]) for gpu in (first, second, third, inside)]
    later = {**first, "start_s": 10.0, "end_s": 210.0}
    parts.append(of(1, "2026-11-26T10:10:00Z", engines=[later]))
    (engine,) = merged(parts)["engines"]
    assert (engine["busy_s"], engine["idle_s"]) == (pytest.approx(270.0), pytest.approx(350.0))
    assert (engine["start_s"], engine["end_s"]) == (0.0, 810.0)


def test_one_that_was_touched_keeps_no_older_ones(tmp_path: Path) -> None:
    """Copied back from somewhere, say: the others are as old as they are."""
    clock = Clock()
    store = Store(tmp_path, History(), clock)
    for number in range(3):
        path = store.folder / f"20270101T00000{number}Z-{number}-1.rec"
        path.touch()
        os.utime(path, (NOW if number == 0 else NOW - 8 * 86400,) * 2)
    store.prune()
    assert [part.pid for part in parts(store.folder)] == [0]


def test_a_forecast_is_the_last_one() -> None:
    """Of each limit by itself, with its time counted from where the report begins."""

    def near(scope: str, used: int, left_s: float) -> dict[str, Any]:
        return {
            **SAMPLE["findings"][0],
            **{"kind": "memory_limit_near", "pid": 1, "tid": 1, "function": None, "file": None, "line": None},
            **{"peer": None, "blocked_s": 0.0, "saves_s": None, "engine_idle_s": None, "count": 0},
            "limit": {"scope": scope, "name": "x", "limit_bytes": 100, "used_bytes": used},
            **{"limit_in_s": left_s, "limit_at_s": 600.0 + left_s, "advice": f"{left_s:g} s"},
        }

    first = part("2026-11-26T10:00:00Z", findings=[near("cgroup", 50, 3000.0), near("kv_cache", 90, 60.0)])
    last = part("2026-11-26T10:40:00Z", findings=[near("cgroup", 95, 120.0)])
    found = {one["limit"]["scope"]: one for one in merged([first, last])["findings"]}
    assert found["cgroup"]["limit"]["used_bytes"] == 95
    assert found["cgroup"]["limit_at_s"] == 2400.0 + 720.0
    assert found["cgroup"]["advice"] == "In 2 parts of the history; in the last of them: 120 s"
    assert (found["kv_cache"]["limit_at_s"], found["kv_cache"]["advice"]) == (660.0, "60 s")


def test_what_was_left_out_adds_up() -> None:
    """Of the parts that say so: those of old recordings do not."""
    threads = {"count": 3, "wall_s": 2.0, "states": {"sleep": 1.5, "running": 0.5}}
    more = {"count": 1, "wall_s": 0.5, "states": {"disk": 0.5}}
    parts = [
        part("2026-11-26T10:00:00Z", processes_omitted={"count": 2, "cpu_s": 0.5}, threads_omitted=threads),
        part("2026-11-26T10:10:00Z"),
        part("2026-11-26T10:20:00Z", processes_omitted={"count": 5, "cpu_s": 1.0}, threads_omitted=more),
    ]
    whole = merged(parts)
    assert whole["processes_omitted"] == {"count": 7, "cpu_s": 1.5}
    states = {"sleep": 1.5, "running": 0.5, "disk": 0.5}
    assert whole["threads_omitted"] == {"count": 4, "wall_s": 2.5, "states": states}
    assert "threads_omitted" not in merged([part("2026-11-26T10:00:00Z"), part("2026-11-26T10:10:00Z")])
