"""GPUs as engines of a target: what the report says of spans, uses and states."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_schema import check
from timeline import (
    COST,
    HOST,
    MS,
    PID,
    START,
    Life,
    S,
    asleep,
    at,
    born,
    call,
    died,
    infer,
    life,
    observe,
    peer,
    run,
)

from whyidle_daemon.facts import EngineSpan, GpuFacts, GpuSample, GpuUse, Loss, Snapshot
from whyidle_daemon.gpus.devices import MAX_SPANS
from whyidle_daemon.gpus.usage import MAX_USERS
from whyidle_daemon.observation import Observation
from whyidle_daemon.timelines import Timelines
from whyidle_probes.events import Exit, Wait

PERIOD = 100 * MS
GPU = GpuFacts("nvml:0", START, 0, "Test GPU", "1.2", 80 << 30, "nvml", True)


def spans(busy: list[tuple[int, int]], until: int, period: int = PERIOD) -> list[EngineSpan]:
    """Samples of a GPU that computed in these intervals, nanoseconds from the start."""
    found = []
    for start in range(0, until, period):
        end = min(until, start + period)
        work = sum(max(0, min(b, end) - max(a, start)) for a, b in busy)
        found.append(EngineSpan("nvml:0", START + start, START + end, work, 0, period))
    return found


def report_of(lives: list[Life], records: list[Any], now: int | None = None) -> dict[str, Any]:
    observation = Observation(START, (PID,), ("python", "train.py"), "2026-01-01T00:00:00Z")
    for each in lives:
        for record in (*each.samples, *each.records):
            observation.add(record)
        if each.thread.end_ns:
            observation.add(each.thread)
    for record in (GPU, use(), *records):
        observation.add(record)
    live = tuple(each.thread for each in lives if not each.thread.end_ns)
    engines = tuple(each.engine for each in lives if each.engine is not None)
    end = now or max(each.end_ns for each in lives)
    found = observation.report(Snapshot(end, live, engines), HOST, Loss(), COST, None)
    check(found)
    return found


def use(pid: int = PID, ns: int = START, memory: int | None = 5 << 30, **more: Any) -> GpuUse:
    return GpuUse("nvml:0", pid, ns, memory, **more)


def test_a_gap_is_blamed_on_what_the_main_thread_waited_for() -> None:
    """Work, a search of a second, work: one gap, its edges within a period, all of it the search."""
    agent = life([run(500 * MS), at(call(S), "search", 12), run(500 * MS)])
    found = report_of([agent], spans([(0, 500 * MS), (1500 * MS, 2 * S)], 2 * S))
    (engine,), (gap,) = found["engines"], found["gaps"]
    assert (engine["kind"], engine["id"], engine["pid"], engine["simulated"]) == ("nvml", "nvml:0", PID, True)
    assert (engine["busy_s"], engine["idle_s"], engine["resolution_ms"]) == (1.0, 1.0, 100.0)
    assert engine["memory_peak_bytes"] == 5 << 30
    assert (gap["start_s"], gap["duration_s"], gap["start_uncertainty_s"]) == (0.5, 1.0, 0.1)
    assert [(c["state"], c["function"], c["share"]) for c in gap["causes"]] == [("network", "search", 1.0)]
    assert [f["kind"] for f in found["findings"]] == ["blocking_network_call"]
    assert found["findings"][0]["engine_idle_s"] == 1.0
    assert found["host"]["gpus"][0]["name"] == "Test GPU"


def test_half_the_time_in_small_gaps_is_as_idle_as_in_a_long_one() -> None:
    """6 ms of work and 6 ms of network, again and again: no gap is seen, and its cause is named."""
    steps = [run(6 * MS), at(call(6 * MS), "fetch", 3)] * 200
    busy = [(n * 12 * MS, n * 12 * MS + 6 * MS) for n in range(200)]
    found = report_of([life(steps)], spans(busy, 2400 * MS))
    (engine,) = found["engines"]
    assert found["gaps"] == []
    assert engine["idle_s"] == pytest.approx(1.2)
    assert engine["idle_scattered_s"] == pytest.approx(1.2)
    assert engine["idle_attributed_s"] == pytest.approx(1.2)
    assert found["idle_by_cause"][0]["state"] == "network"
    assert found["idle_by_cause"][0]["share"] > 0.99
    assert "blocking_network_call" in [f["kind"] for f in found["findings"]]


def test_a_spinning_thread_is_no_work() -> None:
    """The main thread burns a CPU for 2 s while the GPU does nothing: idle, because of the thread."""
    found = report_of([life([run(3 * S)])], spans([(0, S)], 3 * S))
    (engine,) = found["engines"]
    assert engine["idle_s"] == 2.0
    assert [(row["state"], row["seconds"]) for row in found["idle_by_cause"]] == [("running", 2.0)]


def test_time_that_no_wait_covers_is_the_threads_own_only_as_far_as_it_ran() -> None:
    """A thread that ran for 0.2 s in all cannot have run for the whole of a gap whose slices were lost."""
    agent = life([run(200 * MS), call(800 * MS)])
    found = report_of([agent._replace(events=[])], spans([], S))
    states = {row["state"]: row["seconds"] for row in found["idle_by_cause"]}
    assert states == {"running": pytest.approx(0.2), "network": pytest.approx(0.8)}
    assert found["engines"][0]["idle_attributed_s"] == pytest.approx(1.0)


def test_time_that_the_totals_do_not_have_is_unknown() -> None:
    """A thread that was only there for the first half of a gap explains no more than that."""
    agent = life([run(200 * MS), call(300 * MS)])
    found = report_of([agent._replace(events=[])], spans([], S), now=START + 500 * MS)
    assert found["engines"][0]["idle_attributed_s"] == pytest.approx(found["engines"][0]["idle_s"])
    gone = life([run(200 * MS), call(300 * MS)], ended=True)
    found = report_of([gone._replace(events=[])], spans([], S), now=START + S)
    states = {row["state"]: row["seconds"] for row in found["idle_by_cause"]}
    assert states["other"] == pytest.approx(0.5)
    assert found["engines"][0]["idle_attributed_s"] == pytest.approx(0.5)


def test_copies_are_not_idle() -> None:
    """Copied for half of the time: that half is in no gap."""
    copying = [EngineSpan("nvml:0", START, START + S, 0, S, PERIOD)]
    found = report_of(
        [life([run(2 * S)])], [*copying, EngineSpan("nvml:0", START + S, START + 2 * S, 0, 0, PERIOD)]
    )
    (engine,) = found["engines"]
    assert (engine["copy_s"], engine["busy_s"], engine["idle_s"]) == (1.0, 1.0, 1.0)
    assert [gap["start_s"] for gap in found["gaps"]] == [1.0]


def test_a_gap_that_lasts_is_open() -> None:
    """The GPU is idle now, and what its thread is in the middle of is the cause."""
    agent = life([run(S), call(2 * S)], open_last=True)
    found = report_of([agent], spans([(0, S)], 3 * S))
    (gap,) = found["gaps"]
    assert gap["open"]
    assert [cause["state"] for cause in gap["causes"]] == ["network"]


def test_the_gpu_under_a_model_does_not_count_its_waits_twice() -> None:
    """llama.cpp on a GPU: both engines are listed; findings and predictions rest on the exact one."""
    inner = ("HTTPResponse._read_status (/usr/lib/python3.11/http/client.py:280)",)
    calls = [at(call(300 * MS, peer(local_port=4000 + n)), "search", inner=inner) for n in range(3)]
    rounds = [infer(200 * MS), *calls] * 4
    agent = life([*rounds, infer(200 * MS)])
    busy = [(n * 1100 * MS, n * 1100 * MS + 200 * MS) for n in range(5)]
    alone, both = observe([agent]), report_of([agent], spans(busy, 4600 * MS))
    llama, gpu = sorted(both["engines"], key=lambda engine: engine["kind"])
    assert [llama] == alone["engines"]
    assert gpu["idle_s"] == pytest.approx(llama["idle_s"], abs=0.1)
    assert both["findings"] == alone["findings"] != []
    saves = [[found["saves_s"] for found in report["what_if"]] for report in (alone, both)]
    assert saves[0] == saves[1] != []


def test_a_gpu_of_other_people_is_no_engine_of_this_target() -> None:
    """Known to the host, used by nobody here."""
    observation = Observation(START, (PID,), ("x",), "now")
    observation.add(GPU)
    for span in spans([], S):
        observation.add(span)
    found = observation.report(Snapshot(START + S), HOST, Loss(), COST, None)
    assert found["engines"] == []
    assert [gpu["id"] for gpu in found["host"]["gpus"]] == ["nvml:0"]


def test_a_use_from_before_the_process_is_of_another_one() -> None:
    """The PID was used again: the old holder's memory is not this process's."""
    observation = Observation(START, (PID,), ("x",), "now")
    observation.add(use(ns=START - 1, memory=1 << 40))
    found = observation.report(Snapshot(START + S), HOST, Loss(), COST, None)
    assert found["engines"] == []


def test_what_a_gpu_cannot_tell_is_null_with_a_reason() -> None:
    """No utilisation, no memory by process: not idle, not 0 bytes, but unknown, in the driver's words."""
    silent = GPU._replace(unknown=("utilisation: Not Supported",))
    agent = life([run(S)])
    observation = Observation(START, (PID,), ("x",), "now")
    observation.add(silent)
    observation.add(use(memory=None))
    found = observation.report(Snapshot(agent.end_ns, (agent.thread,)), HOST, Loss(), COST, None)
    check(found)
    (engine,) = found["engines"]
    assert (engine["busy_s"], engine["idle_s"], engine["utilization_mean"]) == (0.0, 0.0, None)
    assert engine["memory_peak_bytes"] is None
    assert engine["unknown"] == ["utilisation: Not Supported", "memory by process: the driver does not say"]


def test_a_driver_that_was_away_leaves_a_hole_and_not_a_gap() -> None:
    """Between the samples before and after nothing is known: neither busy nor idle."""
    known = [span for span in spans([(0, 3 * S)], 3 * S) if not S <= span.start_ns - START < 2 * S]
    lost = GpuSample("nvml:0", START + 1500 * MS, None, None, None, "Driver Not Loaded")
    found = report_of([life([run(3 * S)])], [*known, lost])
    (engine,) = found["engines"]
    assert (engine["busy_s"], engine["idle_s"], engine["unseen_s"]) == (2.0, 0.0, 1.0)
    assert engine["unknown"] == ["Driver Not Loaded"]


def test_memory_power_and_limits() -> None:
    """Peaks are of what was held at the same time; reasons to be slow are shares of the samples."""
    uses = [use(PID + n, START + MS, memory=(3 + n) << 30, others=2 * n) for n in range(2)]
    uses.append(use(ns=START + 2 * MS, memory=6 << 30))
    states = [GpuSample("nvml:0", START + n, 1, 100_000 * (n + 1), 0x4 if n else 0x1) for n in range(2)]
    helper = life([run(S)], pid=PID + 1)
    found = report_of([life([run(S)]), helper], [*spans([(0, S)], S), *uses, *states])
    (engine,) = found["engines"]
    assert engine["memory_peak_bytes"] == 7 << 30
    assert engine["power_mean_w"] == 150.0
    assert engine["throttled"] == {"power cap": 0.5}
    assert engine["other_processes"] == 2
    assert [row["pid"] for row in engine["processes"]] == [PID, PID + 1]


def test_the_engine_ends_with_its_last_process() -> None:
    """What a GPU does after the target has let go of it is not counted."""
    agent = life([run(S)], ended=True)
    gone = Exit(1, START + S, PID, 0, 1000, "x")
    found = report_of([agent], [*spans([(0, S)], 5 * S), gone], now=START + 5 * S)
    assert (found["engines"][0]["busy_s"], found["engines"][0]["idle_s"]) == (1.0, 0.0)


def test_a_gpu_counts_while_a_process_of_the_target_uses_it() -> None:
    """Two stages with a time between in which somebody else computes on it: that is not this target's."""
    first, second = PID + 1, PID + 2
    observation = Observation(START, (PID,), ("pipeline.sh",), "2026-01-01T00:00:00Z")
    told = [born(first, PID, START), use(first), *spans([(0, S)], 2 * S), died(first, START + 2 * S)]
    others = [(n * S, n * S + 350 * MS) for n in range(2, 900)]  # in so many parts that they are settled
    for record in (GPU, *told, *spans(others, 900 * S)[20:]):
        observation.add(record)
    paused = observation.report(Snapshot(START + 900 * S), HOST, Loss(), COST, None)["engines"][0]
    assert (paused["busy_s"], paused["idle_s"], paused["unseen_s"]) == (1.0, 1.0, 0.0)
    assert observation._gpus._engines["nvml:0"].busy_share == pytest.approx(0.5)
    observation.add(born(second, PID, START + 899 * S))
    observation.add(use(second, START + 900 * S))
    for record in spans([(900 * S, 901 * S)], 903 * S)[9000:]:
        observation.add(record)
    agent = life([asleep(Wait.SLEEP, 903 * S)], open_last=True).thread
    found = observation.report(Snapshot(START + 903 * S, (agent,)), HOST, Loss(), COST, None)
    check(found)
    (engine,) = found["engines"]
    # The second one is seen once it has used it for up to half a second.
    assert (engine["busy_s"], engine["idle_s"], engine["unseen_s"]) == (2.0, 3.5, 0.0)
    assert (engine["start_s"], engine["end_s"]) == (0.0, 903.0)
    assert sum(cause["seconds"] for cause in found["idle_by_cause"]) == pytest.approx(3.5)


def test_each_gap_is_the_one_users_who_lived_then() -> None:
    """A large job ends early: what its GPU waited for afterwards, the small one that stays has to explain."""
    large, small = PID + 1, PID + 2
    first = life([run(S), call(2 * S)], pid=large, ended=True)
    second = life([asleep(Wait.SLEEP, 4 * S), run(S), at(call(30 * S), "ask", 7)], pid=small, open_last=True)
    told = [GPU, born(large, PID, START), born(small, PID, START)]
    told += [use(large, memory=60 << 30), use(small, memory=1 << 30)]
    busy = [(0, S), (4 * S, 5 * S)]
    observation = Observation(START, (PID,), ("x",), "2026-01-01T00:00:00Z")
    for record in (*told, *second.samples, *first.records, *second.records, *spans(busy, 35 * S)):
        observation.add(record)
    for record in (first.thread, died(large, START + 3 * S)):
        observation.add(record)
    snapshot = Snapshot(START + 35 * S, (second.thread,))
    found = observation.report(snapshot, HOST, Loss(), COST, None)
    check(found)
    (engine,) = found["engines"]
    assert (engine["pid"], engine["idle_s"], engine["idle_attributed_s"]) == (small, 33.0, 32.0)
    who = [(gap["start_s"], {cause["pid"] for cause in gap["causes"]}) for gap in found["gaps"]]
    assert who == [(5.0, {small}), (1.0, {large})]
    assert sum(cause["seconds"] for cause in found["idle_by_cause"]) == pytest.approx(33.0)
    (row,) = (cause for cause in found["idle_by_cause"] if cause["pid"] == small)
    assert (row["state"], row["function"], row["seconds"]) == ("network", "ask", 30.0)
    (shown,) = observation.progress(snapshot).gpus
    assert shown.pid == small


@pytest.mark.parametrize(
    "told",
    [
        [use()],  # MIG without GPM, a card that sleeps
        [use(), *spans([], S)],  # one that is lost while it is idle
        [born(PID + 1, PID, START), use(PID + 1), *spans([], S), died(PID + 1, START + S)],
    ],
)
def test_a_gpu_that_tells_nothing_more_needs_no_slices(told: list[Any]) -> None:
    """What its driver waits for is settled in time, and not dropped for want of room."""
    observation = Observation(START, (PID,), ("x",), "now")
    observation._lines = Timelines(1024)
    for record in (GPU, *told, use()._replace(gpu="nvml:1")):
        observation.add(record)
    agent = life([call(20 * MS)] * 5000)
    for record in agent.records:
        observation.add(record)
    found = observation.report(Snapshot(agent.end_ns, (agent.thread,)), HOST, Loss(), COST, None)
    assert len(observation._lines) < 1024
    assert found["loss"]["summed_only"] == 0
    assert sum(engine["idle_s"] for engine in found["engines"]) == (1.0 if len(told) > 1 else 0.0)


def test_many_short_users_one_after_another() -> None:
    """A tool that is started again and again: the last one's time counts as the first one's did."""
    observation = Observation(START, (PID,), ("x",), "now")
    for n in range(2 * MAX_USERS):
        at_ns, pid = START + n * S, PID + 1 + n
        observation.add(born(pid, PID, at_ns))
        observation.add(use(pid, at_ns))
        for tenth in range(10):
            begin = at_ns + tenth * PERIOD
            observation.add(EngineSpan("nvml:0", begin, begin + PERIOD, PERIOD, 0, PERIOD))
        observation.add(died(pid, at_ns + S))
    (gpu,) = observation._gpus._engines.values()
    assert len(gpu.usage.users) == MAX_USERS
    found = observation.report(Snapshot(START + 2 * MAX_USERS * S), HOST, Loss(), COST, None)
    assert found["engines"][0]["busy_s"] == pytest.approx(2 * MAX_USERS, rel=0.01)


def test_state_of_a_gpu_that_nobody_here_uses_any_more() -> None:
    """Its power and its memory are somebody else's then."""
    observation = Observation(START, (PID,), ("x",), "now")
    tool = PID + 1
    told = [GPU, born(tool, PID, START), use(tool), *spans([(0, S)], S)]
    told += [GpuSample("nvml:0", START + 500 * MS, 1 << 30, 100_000, 0), died(tool, START + S)]
    told += [GpuSample("nvml:0", START + 2 * S, 80 << 30, 700_000, 0x4)]
    for record in told:
        observation.add(record)
    found = observation.report(Snapshot(START + 3 * S), HOST, Loss(), COST, None)
    (engine,) = found["engines"]
    assert (engine["power_mean_w"], engine["throttled"]) == (100.0, {})
    (limit,) = found["memory"]["limits"]
    assert [used for _, used, *_ in limit["points"]] == [1 << 30]


@given(
    st.lists(
        st.tuples(st.integers(0, 4 * S), st.integers(-MS, S), st.integers(0, S), st.sampled_from([1, PERIOD]))
    ),
    st.integers(1, 4 * S),
)
@settings(max_examples=100, deadline=None)
def test_sums_hold_whatever_the_sources_say(parts: list[tuple[int, int, int, int]], wall: int) -> None:
    """Overlapping, late and backward spans: a valid report, causes that add up to idle time."""
    records = [EngineSpan("nvml:0", START + a, START + a + n, busy, 0, edge) for a, n, busy, edge in parts]
    found = report_of([life([run(wall // 2), call(wall - wall // 2 + 1)])], records)
    for engine in found["engines"]:
        assert engine["busy_s"] + engine["idle_s"] <= 5.1


def test_an_hour_at_ten_hertz_is_bounded_and_nothing_is_lost() -> None:
    """36 000 samples, all different: settled as they come, with the same sums."""
    count = 36_000
    observation = Observation(START, (PID,), ("x",), "now")
    observation.add(GPU)
    observation.add(use())
    for n in range(count):
        busy = (0, PERIOD // 4, PERIOD, PERIOD // 2)[n % 4]
        observation.add(EngineSpan("nvml:0", START + n * PERIOD, START + (n + 1) * PERIOD, busy, 0, PERIOD))
    (gpu,) = observation._gpus._engines.values()
    assert len(gpu._spans) <= MAX_SPANS + 1
    thread = life([asleep(Wait.SLEEP, count * PERIOD)], open_last=True).thread
    found = observation.report(Snapshot(START + count * PERIOD, (thread,)), HOST, Loss(), COST, None)
    check(found)
    (engine,) = found["engines"]
    assert engine["busy_s"] == pytest.approx(count * 0.1 * 7 / 16)
    assert engine["busy_s"] + engine["idle_s"] == pytest.approx(3600)
    assert len(found["gaps"]) == 100


def test_a_storm_of_gpu_samples_of_one_long_gap_is_bounded() -> None:
    """Idle for an hour is one gap, in a handful of spans."""
    observation = Observation(START, (PID,), ("x",), "now")
    observation.add(use())
    for n in range(36_000):
        observation.add(EngineSpan("nvml:0", START + n * PERIOD, START + (n + 1) * PERIOD, 0, 0, PERIOD))
    found = observation.report(Snapshot(START + 3600 * S), HOST, Loss(), COST, None)
    check(found)
    assert [gap["duration_s"] for gap in found["gaps"]] == [3600.0]
