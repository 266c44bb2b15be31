"""The report as a whole: what it says of known timelines, and that its sums hold."""

from __future__ import annotations

import json

import pytest
from report_schema import check
from timeline import (
    CONTEXT,
    HOST,
    MS,
    PID,
    START,
    Life,
    S,
    asleep,
    born,
    call,
    died,
    infer,
    life,
    observe,
    peer,
    queued,
    run,
)

from whyidle_daemon.facts import Loss, MemorySample, Overhead, ProcessFacts, Snapshot
from whyidle_daemon.observation import Observation
from whyidle_daemon.states import peer_address, peer_text, state_of
from whyidle_probes.events import NO_SYSCALL, Exec, Peer, Thread, Wait


def agent(loops: int = 5, searches: int = 1, **options: bool) -> Life:
    """An agent that infers 100 ms and then searches 500 ms, some times over."""
    steps = [run(200 * MS)]
    for _ in range(loops):
        steps += [infer(100 * MS), run(5 * MS)]
        steps += [call(500 * MS), run(2 * MS)] * searches
    return life([*steps, infer(100 * MS)], **options)  # type: ignore[arg-type]


def test_blocking_search_explains_the_idle_engine() -> None:
    """Every second of idleness has its cause, to the nanosecond, and the search is named."""
    report = observe([agent()])
    check(report)
    engine = report["engines"][0]
    assert (engine["busy_s"], engine["idle_s"]) == (pytest.approx(0.6), pytest.approx(5 * 0.507))
    assert engine["idle_attributed_s"] == pytest.approx(engine["idle_s"])
    first, second = report["idle_by_cause"]
    assert (first["state"], first["seconds"]) == ("network", pytest.approx(2.5))
    assert first["peer"] == {"host": None, "address": "93.184.216.34", "port": 443}
    assert (second["state"], second["seconds"]) == ("running", pytest.approx(0.035))
    assert [round(gap["duration_s"], 3) for gap in report["gaps"]] == [0.507] * 5
    assert report["target"]["duration_s"] == pytest.approx(0.2 + 5 * 0.607 + 0.1)


def test_report_is_json_and_changes_nothing() -> None:
    """A report can be asked for at any time, any number of times."""
    one = agent()
    observation = Observation(START, (PID,), ("x",), "2026-01-01T00:00:00Z")
    for record in one.records:
        observation.add(record)
    assert one.engine is not None
    snapshot = Snapshot(one.end_ns, (one.thread,), (one.engine,))
    reports = [observation.report(snapshot, HOST, Loss(), Overhead(0, 0), 0) for _ in range(3)]
    assert reports[0] == reports[1] == reports[2]
    assert json.loads(json.dumps(reports[0])) == reports[0]
    observation.progress(snapshot)
    assert observation.report(snapshot, HOST, Loss(), Overhead(0, 0), 0) == reports[0]


def test_a_wait_that_lasts_is_reported() -> None:
    """A search that hangs is found while it hangs, though the kernel has sent nothing of it yet."""
    hung = life([run(MS), infer(100 * MS), call(30 * S)], open_last=True)
    assert not hung.events
    report = observe([hung])
    check(report)
    assert report["gaps"][0]["open"]
    assert report["gaps"][0]["duration_s"] == pytest.approx(30)
    (found,) = report["findings"]
    assert found["kind"] == "blocking_network_call"
    assert (found["count"], found["open_s"], found["engine_idle_s"]) == (1, 30.0, 30.0)
    assert found["saves_s"] == 0  # one call alone cannot be put beside another
    assert "has been waiting" in found["advice"]


def test_gap_open_at_the_end_counts_until_the_process_ended() -> None:
    """The engine's last idleness ends with its process, not with the report."""
    one = life([infer(100 * MS), call(400 * MS), run(100 * MS)], ended=True)
    report = observe([one], extra=(died(PID, one.end_ns, 256),), now=one.end_ns + 10 * S)
    check(report)
    engine = report["engines"][0]
    assert engine["idle_s"] == pytest.approx(0.5)
    assert engine["idle_attributed_s"] == pytest.approx(0.5)
    assert report["target"]["duration_s"] == pytest.approx(0.6)
    assert report["target"]["exit_status"] == 1


def test_engine_that_outlives_its_driver_says_so() -> None:
    """Idle time after the driver thread ended has no known cause, and is not called attributed."""
    driver = life([infer(100 * MS), call(400 * MS)], tid=PID + 1, ended=True)
    main = life([asleep(Wait.SLEEP, 3 * S)])
    report = observe([driver, main], now=START + 3 * S)
    check(report)
    engine = report["engines"][0]
    assert engine["idle_s"] == pytest.approx(2.9)
    assert engine["idle_attributed_s"] == pytest.approx(0.4)


def test_busy_engine_at_the_end_is_busy() -> None:
    """A call that has not returned counts as busy up to now."""
    one = agent(loops=1)
    assert one.engine is not None
    engine = one.engine._replace(busy=True)
    report = observe([one._replace(engine=engine)], now=one.end_ns + S)
    check(report)
    assert report["engines"][0]["busy_s"] == pytest.approx(1.2)


def test_short_gaps_are_the_drivers_own_work() -> None:
    """Idleness below the gap threshold is counted, as work between calls."""
    one = life([infer(10 * MS), run(MS // 2)] * 100)
    report = observe([one])
    check(report)
    assert not [gap for gap in report["gaps"] if not gap["open"]]
    assert report["idle_by_cause"][0]["state"] == "running"
    assert report["engines"][0]["idle_s"] == pytest.approx(0.05)


def test_waits_too_short_for_slices_still_have_a_peer() -> None:
    """Many calls below the slice threshold add up to a cause with its peer."""
    quick = peer("10.0.0.7", 6379)
    one = life([infer(10 * MS), *[call(900_000, quick), run(1000)] * 50] * 20)
    report = observe([one])
    check(report)
    assert report["idle_by_cause"][0]["peer"] == {"host": None, "address": "10.0.0.7", "port": 6379}
    assert report["findings"][0]["count"] == 1000


def test_gap_driven_by_another_thread_falls_back_to_slices() -> None:
    """Without exact totals the thread that ended the gap ran where no slice says otherwise."""
    one = agent(loops=1)
    gaps = [event._replace(ns=None) if hasattr(event, "context") else event for event in one.events]
    report = observe([one._replace(events=gaps)])
    check(report)
    states = {row["state"]: row["seconds"] for row in report["idle_by_cause"]}
    assert states == {"network": pytest.approx(0.5), "running": pytest.approx(0.007)}


def test_lost_gaps_are_idle_time_without_a_cause() -> None:
    """What the kernel counted but could not send is not invented."""
    one = agent(loops=4)
    gaps = [event for event in one.events if hasattr(event, "context")]
    report = observe([one._replace(events=[e for e in one.events if e != gaps[0]])], loss=Loss(gaps_lost=1))
    check(report)
    states = {row["state"]: row["seconds"] for row in report["idle_by_cause"]}
    assert states["other"] == pytest.approx(0.507)
    assert report["findings"][0]["confidence"] == "medium"
    assert report["loss"]["events_lost"] == 1


def test_gap_that_came_after_the_engine_was_read_counts_once() -> None:
    """A snapshot older than the newest events does not count their time twice."""
    short, long = agent(loops=2), agent(loops=3)
    assert short.engine is not None
    report = observe([long._replace(engine=short.engine)])
    check(report)
    engine = report["engines"][0]
    assert engine["busy_s"] + engine["idle_s"] == pytest.approx((long.end_ns - START) / S - 0.2)


def test_dns_is_told_from_other_sockets() -> None:
    """Time in UDP to port 53 is moved from network to dns; the thread's sum stays."""
    server = peer("10.0.0.2", 53)
    ask = call(40 * MS, server)._replace(wait=Wait.UDP)
    report = observe([life([run(MS), ask, call(60 * MS), run(MS)])])
    check(report)
    states = report["threads"][0]["states"]
    assert (states["dns"], states["network"]) == (pytest.approx(0.04), pytest.approx(0.06))


def test_open_gap_with_a_preempted_driver_is_runqueue() -> None:
    """A driver that stands in the queue when the report is made is waiting for a CPU."""
    report = observe([life([infer(100 * MS), run(MS), queued(500 * MS)], open_last=True)])
    check(report)
    assert report["idle_by_cause"][0]["state"] == "runqueue"


def test_woken_but_not_running_is_split() -> None:
    """An open wait whose answer has come is network until then, runqueue since."""
    one = life([infer(100 * MS), call(300 * MS, runqueue_ns=200 * MS)], open_last=True)
    report = observe([one])
    check(report)
    states = {row["state"]: row["seconds"] for row in report["idle_by_cause"]}
    assert states == {"network": pytest.approx(0.3), "runqueue": pytest.approx(0.2)}


def test_pid_that_comes_back_is_another_process() -> None:
    """Two processes with one PID are two rows, each with its own time."""
    first = life([run(S)], pid=99, start=START + S, ended=True)
    second = life([run(2 * S)], pid=99, start=START + 5 * S, ended=True)
    extra = (
        born(99, PID, first.thread.first_ns),
        died(99, first.end_ns),
        born(99, PID, second.thread.first_ns),
        died(99, second.end_ns),
    )
    report = observe([life([asleep(Wait.CHILD, 9 * S)]), first, second], extra)
    check(report)
    assert [p["cpu_s"] for p in report["processes"] if p["pid"] == 99] == [1.0, 2.0]


def test_pid_that_comes_back_unannounced_is_another_process() -> None:
    """Also when the second fork was lost; but what a dying process still does is its own."""
    first = life([run(S)], pid=99, start=START, ended=True)
    dying = life([run(MS)], pid=99, tid=100, start=first.end_ns + MS, ended=True)
    second = life([run(2 * S)], pid=99, start=START + 5 * S, ended=True)
    extra = (born(99, PID, START), died(99, first.end_ns))
    report = observe([life([asleep(Wait.CHILD, 9 * S)]), first, dying, second], extra)
    check(report)
    assert [p["cpu_s"] for p in report["processes"] if p["pid"] == 99] == [1.001, 2.0]


def test_exec_in_a_thread_continues_under_the_leaders_id() -> None:
    """After exec by another thread its waits belong to the main thread, which is what the kernel calls it."""
    before = life([call(S)], tid=PID + 5)
    swap = Exec(1, before.end_ns, PID, PID + 5, "curl", "/usr/bin/curl", 0)
    thread = before.thread._replace(tid=PID)
    leader = life([asleep(Wait.FUTEX, S)], ended=True)
    report = observe([leader, before._replace(thread=thread)], (swap,), now=before.end_ns + MS)
    check(report)
    assert report["processes"][0]["command"] == "/usr/bin/curl"
    (found,) = report["findings"]
    assert (found["tid"], found["blocked_s"]) == (PID, 1.0)


def test_process_facts_belong_to_their_time() -> None:
    """A command read before an exec does not name the program after it; memory is the highest seen."""
    one = life([run(S)], pid=50, ended=True)
    facts = ProcessFacts(50, PID, ("sh", "-c", "x"), "/a", START + 1)
    extra = (
        born(50, PID, START),
        facts,
        Exec(1, START + 2, 50, 50, "true", "/bin/true", 100),
        MemorySample(50, START + 3, 5000, 9000),
        died(50, one.end_ns)._replace(rss_peak_pages=100),
    )
    root = life([asleep(Wait.CHILD, 2 * S)])
    (process,) = [p for p in observe([one, root], extra)["processes"] if p["pid"] == 50]
    assert (process["command"], process["cgroup"], process["ppid"]) == ("/bin/true", "/a", PID)
    # The exit peak is that of the image before exec, so only the sample counts.
    assert (process["rss_peak_bytes"], process["rss_end_bytes"]) == (9000, 5000)


def test_progress_names_the_wait() -> None:
    """The live line says what the driver waits for, with peer, syscall and how long."""
    observation = Observation(START, (PID,), ("x",), "now")
    hung = life([infer(600 * MS), call(400 * MS, peer("127.0.0.1", 8080))], open_last=True)
    assert hung.engine is not None
    progress = observation.progress(Snapshot(hung.end_ns, (hung.thread,), (hung.engine,)))
    assert progress.wait == "network 127.0.0.1:8080 (recvfrom) 0.4 s"
    assert progress.engine_busy_share == pytest.approx(0.6)
    assert (progress.elapsed_s, progress.processes, progress.threads) == (1.0, 1, 1)
    alone = observation.progress(Snapshot(hung.end_ns, (hung.thread,), ()))
    assert (alone.engine_busy_share, alone.wait) == (None, progress.wait)
    assert observation.progress(Snapshot(hung.end_ns)).wait is None


@pytest.mark.parametrize(
    ("wait", "far", "state"),
    [
        (Wait.TCP, peer("::1", 80), "network"),
        (Wait.UDP, peer("1.1.1.1", 53), "dns"),
        (Wait.TCP, peer("1.1.1.1", 53), "dns"),
        (Wait.TCP, peer("0.0.0.0", 0, tcp_state=10), "event_loop"),
        (Wait.SOCKET, Peer(bytes(16), bytes(16), 0, 0, 16, 3, 0), "other"),
        (Wait.SOCKET, Peer(bytes(16), bytes(16), 0, 0, 40, 1, 0), "network"),
        (Wait.LISTEN, peer(), "event_loop"),
        (Wait.DISK, peer(), "disk"),
        (Wait.SIGNAL, peer(), "sleep"),
        (31, peer(), "other"),
    ],
)
def test_state_of(wait: int, far: Peer, state: str) -> None:
    """Each kernel wait has its state, numbers from a newer kernel side included."""
    assert state_of(wait, NO_SYSCALL, far) == state


def test_addresses_read_as_people_write_them() -> None:
    """IPv4 in IPv6 is IPv4; IPv6 has brackets before a port; no peer is None."""
    assert peer_address(peer("::ffff:10.1.2.3")) == "10.1.2.3"
    assert peer_text(10, bytes(15) + b"\1", 8080) == "[::1]:8080"
    assert peer_address(Peer(bytes(16), bytes(16), 0, 0, 2, 1, 0)) is None


def test_a_thread_read_while_it_ended_counts_once() -> None:
    """The final record of a thread replaces the one in the snapshot."""
    done = life([run(S)], ended=True)
    alive: Thread = done.thread._replace(end_ns=0)
    observation = Observation(START, (PID,), ("x",), "now")
    observation.add(done.thread)
    report = observation.report(Snapshot(done.end_ns, (alive,)), HOST, Loss(), Overhead(0, 0), None)
    assert [thread["wall_s"] for thread in report["threads"]] == [1.0]


def test_context_is_in_the_engine_id() -> None:
    """Scripts find an engine by kind, PID and context address."""
    assert observe([agent()])["engines"][0]["id"] == f"llama:{PID}:{CONTEXT:x}"
