"""Each kind of finding beyond the first two: a guilty target, and the decoys that only look guilty."""

from __future__ import annotations

from typing import Any

import pytest
from report_schema import check
from timeline import (
    MS,
    PID,
    START,
    Life,
    S,
    Step,
    asleep,
    at,
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

from whyidle_daemon.facts import HostName, Lookup
from whyidle_probes.events import NO_PEER, Exec, Wait
from whyidle_wire.report import FINDING_KINDS

LIB = "/usr/lib/python3.11"
HEAD = (f"HTTPResponse._read_status ({LIB}/http/client.py:280)",)
BODY = (f"read ({LIB}/site-packages/httpcore/x.py:1)", f"_receive_response_body ({LIB}/site-packages/h.py:2)")
LOCK = 0xABC0


def findings(lives: list[Life], kind: str | None = None, **options: Any) -> list[dict[str, Any]]:
    report = observe(lives, **options)
    check(report)
    wanted = [kind] if kind else [k for k in FINDING_KINDS if k not in ("no_demand", "engine_saturated")]
    return [found for found in report["findings"] if found["kind"] in wanted]  # no mere information


def kinds(lives: list[Life], **options: Any) -> list[str]:
    return sorted({found["kind"] for found in findings(lives, **options)})


def search(ns: int = S, port: int = 40_000, function: str = "search", to: str = "93.184.216.34") -> Step:
    return at(call(ns, peer(to, local_port=port)), function, inner=HEAD)


def waits(wait: Wait, ns: int, function: str = "work", **options: Any) -> Step:
    return at(asleep(wait, ns), function, **options)


def between(*steps: Step) -> list[Step]:
    """What the driver does between two inferences."""
    return [infer(S), *steps, infer(S)]


# --- sequential_calls ----------------------------------------------------------------------------------


def test_calls_in_a_row_are_two_findings() -> None:
    """Whom the driver waits for, and that the waits need not add up; both promise the same."""
    steps = between(search(S, 1), run(MS), search(2 * S, 2), run(MS), search(S, 3))
    blocking, sequential = sorted(findings([life(steps)]), key=lambda found: found["kind"])
    assert (blocking["kind"], sequential["kind"]) == ("blocking_network_call", "sequential_calls")
    assert sequential["saves_s"] == blocking["saves_by"]["gather"] == 2.0
    assert (sequential["function"], sequential["count"], sequential["runs"]) == ("search", 3, 1)
    assert (sequential["blocked_s"], sequential["longest_s"]) == (4.0, 2.0)
    assert sequential["confidence"] == "medium"


def test_calls_of_one_function_to_several_hosts_are_one_sequence() -> None:
    """Three hosts asked one after another are three waits and one sequence, on kept connections as well."""
    steps = between(search(S, 1, to="1.1.1.1"), search(S, 2, to="1.1.1.2"), search(S, 2, to="1.1.1.2"))
    (found,) = findings([life(steps)], "sequential_calls")
    assert (found["count"], found["saves_s"], len(found["peers"]), found["peer"]) == (3, 2.0, 2, None)


def test_without_an_engine_calls_with_little_between_are_a_sequence() -> None:
    """The main thread that only waits, call after call; with work between them it is not one."""
    steps = [search(300 * MS, n) for n in range(1, 6)]
    (found,) = findings([life(steps)], "sequential_calls")
    assert (found["count"], found["saves_s"]) == (5, pytest.approx(1.2))
    apart = [step for n in range(1, 6) for step in (search(300 * MS, n), run(100 * MS))]
    assert "sequential_calls" not in kinds([life(apart)])


def test_calls_whose_path_is_known_are_a_sequence() -> None:
    """What the client was seen to ask for belongs to the peer's name, not to the wait."""
    said = HostName(PID, START, 2, bytes([93, 184, 216, 34]), "searx.example", 443, "/search")
    steps = between(search(S, 1), run(MS), search(2 * S, 2))
    (found,) = findings([life(steps)], "sequential_calls", extra=(said,))
    assert (found["count"], found["saves_s"]) == (2, 1.0)
    assert (found["peer"]["host"], found["peer"]["path"]) == ("searx.example", "/search")


def awaits(ns: int, loop: str = "awaiting", port: int = 443, line: int = 1) -> Step:
    """A selector that a peer's answer ended."""
    step = Step(Wait.EPOLL, ns, 0, peer(port=port, local_port=1) if port else NO_PEER)
    return at(step, "search", line, loop, HEAD)


def test_awaiting_one_call_after_another_is_a_sequence() -> None:
    """The loop is not blocked, and yet nothing overlaps: with an engine and without."""
    for steps in ([awaits(300 * MS)] * 4, between(*[awaits(300 * MS)] * 4)):
        (found,) = findings([life(steps)])
        assert (found["kind"], found["function"], found["count"]) == ("sequential_calls", "search", 4)
        assert (found["saves_s"], found["peer"]["port"]) == (pytest.approx(0.9), 443)


@pytest.mark.parametrize(
    "steps",
    [[awaits(300 * MS, "waiting")] * 4, [awaits(300 * MS, port=0)] * 4, [awaits(300 * MS, "")] * 4],
    ids=["several in flight", "woken by a timer", "no loop"],
)
def test_loops_whose_calls_overlap_or_are_none(steps: list[Step]) -> None:
    """Only a peer's answer to the one call in flight counts."""
    assert not kinds([life(steps)])


def test_a_call_tried_again_is_no_sequence() -> None:
    """What was reset had to be asked for again: it could not have been asked for earlier."""
    broken = [
        at(call(300 * MS, peer(local_port=n)._replace(tcp_end=7)), "search", inner=HEAD) for n in range(1, 5)
    ]
    assert "sequential_calls" not in kinds([life(broken)])
    (found,) = findings([life([*broken, search(300 * MS, 9), search(300 * MS, 10)])], "sequential_calls")
    assert found["count"] == 2  # the call that succeeded at last, and another


SEQUENCE_DECOYS: dict[str, list[Step]] = {
    "an answer that trickles in": between(
        search(S, 1), *[at(call(S, peer(local_port=1)), "search", inner=BODY)] * 5),
    "bytes of an unknown protocol": between(*[at(call(S, peer(local_port=1)), "read_all")] * 5),
    "one call per inference": [*[infer(S), search(S, 1)] * 5, infer(S)],
    "handshake, then the answer": between(
        call(S, peer(local_port=1, tcp_state=2)),
        at(call(S, peer(local_port=1)), "f", inner=("do_handshake (ssl.py:1)",)),
        at(call(S, peer(local_port=1)), "f", inner=HEAD)),
    "short ones": between(search(40 * MS, 1), search(40 * MS, 2), asleep(Wait.SLEEP, 5 * S)),
}  # fmt: skip


@pytest.mark.parametrize("name", SEQUENCE_DECOYS)
def test_one_call_is_no_sequence(name: str) -> None:
    """Several waits are not several calls."""
    assert "sequential_calls" not in kinds([life(SEQUENCE_DECOYS[name])])


# --- event_loop_blocked --------------------------------------------------------------------------------


def test_a_synchronous_call_in_a_loop_is_one_finding() -> None:
    """The guilty function and what it waits for; not a second time as a blocking network call."""
    steps = between(*[at(call(S), "handler", 7, "blocked"), run(MS)] * 3)
    (found,) = findings([life(steps)])
    assert (found["kind"], found["function"], found["line"]) == ("event_loop_blocked", "handler", 7)
    assert (found["count"], found["waits_for"], found["engine_idle_s"]) == (3, "network", 3.0)
    assert found["peer"]["port"] == 443
    assert "asyncio" in found["advice"]


@pytest.mark.parametrize("wait", [Wait.SLEEP, Wait.FUTEX, Wait.DISK, Wait.CHILD, Wait.PIPE])
def test_any_wait_blocks_a_loop(wait: Wait) -> None:
    """A sleep, a lock, a file or a child in a coroutine stops every other task; no engine is needed."""
    steps = [waits(Wait.EPOLL, S, "main", loop="waiting"), waits(wait, S, "tick", loop="blocked")] * 2
    (found,) = findings([life(steps)])
    assert (found["kind"], found["function"], found["saves_s"]) == ("event_loop_blocked", "tick", 1.0)


LOOP_DECOYS: dict[str, list[Step]] = {
    "a loop that waits": [waits(Wait.EPOLL, S, "main", loop="waiting")] * 5,
    "await done right": between(at(call(S), "main", 1, "waiting")),
    "a loop that computes": [run(5 * S)],
    "short waits": [at(asleep(Wait.SLEEP, 30 * MS), "tick", 1, "blocked"), run(MS)] * 50,
    "waiting for a CPU is not the code's doing": [at(asleep(Wait.GIL, 20 * MS), "f", 1, "blocked"), run(S)],
}


@pytest.mark.parametrize("name", LOOP_DECOYS)
def test_loops_that_do_no_harm(name: str) -> None:
    """A loop that rightly waits, or works, is not blocked."""
    assert not kinds([life(LOOP_DECOYS[name])])


# --- slow_dns ------------------------------------------------------------------------------------------


def ask(
    ns: int, tid: int = PID, host: str = "slow.example", at_ns: int = START + S, status: int = 0
) -> Lookup:
    return Lookup(PID, tid, at_ns, at_ns + ns, host, status)


def resolve(ns: int) -> Step:
    return at(call(ns, peer("10.0.0.2", 53))._replace(wait=Wait.UDP), "fetch")


def test_slow_names_are_named() -> None:
    """The host, how often, how long; the function comes from the wait for the name server."""
    steps = between(resolve(300 * MS), run(MS), resolve(300 * MS))
    (found,) = findings([life(steps)], extra=(ask(300 * MS), ask(301 * MS, status=-2)))
    assert (found["kind"], found["host"], found["function"]) == ("slow_dns", "slow.example", "fetch")
    assert (found["count"], found["failed"], found["longest_s"]) == (2, 1, pytest.approx(0.301))
    assert found["engine_idle_s"] == pytest.approx(0.6)  # what the waits kept it idle
    assert "slow.example" in found["advice"]


def test_waits_for_a_name_server_without_names() -> None:
    """A resolver that is not getaddrinfo is found by its waits, less surely."""
    (found,) = findings([life(between(resolve(S)))])
    assert (found["kind"], found["host"], found["confidence"]) == ("slow_dns", None, "medium")
    assert "10.0.0.2:53" in found["advice"]


def test_of_two_system_calls_that_took_as_long_always_the_same_is_named() -> None:
    """In whichever order they were seen."""
    server = peer("10.0.0.2", 53)
    first, second = (at(call(200 * MS, server, syscall), "fetch") for syscall in (7, 42))
    named = {findings([life(between(*steps))])[0]["syscall"] for steps in ((first, second), (second, first))}
    assert len(named) == 1


def test_threads_that_look_up_one_host_are_one_finding() -> None:
    """A pool that resolves the same name."""
    lookups = tuple(ask(400 * MS, PID + n) for n in range(1, 5))
    (found,) = findings([life([asleep(Wait.SIGNAL, 4 * S)])], extra=lookups)
    assert (found["threads"], found["blocked_s"], found["confidence"]) == (4, pytest.approx(1.6), "medium")


def test_quick_names_are_no_finding() -> None:
    """A cached name, and one look-up in a long run."""
    assert not findings([life([infer(S), run(MS), infer(S)])], extra=(ask(2 * MS), ask(3 * MS)))
    assert not findings([life([run(60 * S)])], extra=(ask(300 * MS),))


# --- cpu_throttled -------------------------------------------------------------------------------------


def test_a_throttled_driver() -> None:
    """Bandwidth that ran out is neither a busy neighbour nor anybody's line of code."""
    steps = [infer(100 * MS), waits(Wait.THROTTLED, 50 * MS), run(MS)] * 20
    (found,) = findings([life(steps)])
    assert (found["kind"], found["count"], found["saves_s"]) == ("cpu_throttled", 20, 1.0)
    assert found["function"] is None
    assert found["engine_idle_s"] == pytest.approx(1.0)


def test_a_little_throttling_and_queueing_is_not_it() -> None:
    """Less than a twentieth; and waiting for a CPU that others use."""
    assert not kinds([life([run(S), asleep(Wait.THROTTLED, 40 * MS)] * 5)])
    assert kinds([life([run(100 * MS), queued(100 * MS)] * 10)]) == ["cpu_starved"]


# --- gil_contention ------------------------------------------------------------------------------------


def test_a_main_thread_that_waits_for_the_gil() -> None:
    """One finding for the process, with the thread that held it."""
    main = life([run(5 * MS), waits(Wait.GIL, 20 * MS)._replace(waker=PID + 1)] * 100)
    worker = life([run(20 * MS), asleep(Wait.GIL, 5 * MS)] * 100, tid=PID + 1, name="cruncher")
    (found,) = findings([main, worker])
    assert (found["kind"], found["tid"], found["function"]) == ("gil_contention", PID, "work")
    assert (found["blocked_s"], found["all_threads_s"], found["holder"]) == (2.0, 2.5, PID + 1)
    assert "cruncher" in found["advice"]


def test_workers_that_fight_for_the_gil_behind_a_join() -> None:
    """The main thread waits for all of them: their waits together count."""
    main = life([asleep(Wait.FUTEX, 4 * S)])
    workers = [life([run(10 * MS), waits(Wait.GIL, 30 * MS)] * 100, tid=PID + n) for n in range(1, 5)]
    (found,) = findings([main, *workers])
    assert (found["kind"], found["threads"], found["all_threads_s"]) == ("gil_contention", 4, 12.0)


def test_a_gil_that_costs_the_engine_nothing() -> None:
    """A little of it; and threads beside a driver that never waits for it."""
    assert not kinds([life([run(20 * MS), asleep(Wait.GIL, MS)] * 100)])
    others = [life([run(5 * MS), asleep(Wait.GIL, 20 * MS)] * 100, tid=PID + n) for n in (1, 2)]
    assert not kinds([life([infer(S), run(MS)] * 3), *others])


# --- lock_contention -----------------------------------------------------------------------------------


def hold(
    ns: int, waker: int, address: int = LOCK, site: str | None = "step", inner: tuple[str, ...] = ()
) -> Step:
    step = asleep(Wait.FUTEX, ns)._replace(arg=address, waker=waker)
    return at(step, site, inner=inner) if site else step


def convoy(site: str | None = "step", inner: tuple[str, ...] = ()) -> list[Life]:
    """A main thread and two workers that take turns."""
    tids = (PID, PID + 1, PID + 2)
    return [
        life([hold(60 * MS, tids[(n + turn) % 3], site=site, inner=inner) if (turn % 3) else run(30 * MS)
              for turn in range(30)], tid=tid)
        for n, tid in enumerate(tids)
    ]  # fmt: skip


@pytest.mark.parametrize(("site", "level"), [("step", "high"), (None, "medium")])
def test_threads_that_take_turns(site: str | None, level: str) -> None:
    """A convoy behind one lock is found by who woke whom; by its line as well, when stacks were read."""
    (found,) = findings(convoy(site))
    assert (found["kind"], found["tid"], found["function"]) == ("lock_contention", PID, site)
    assert (found["threads"], found["blocked_s"], found["confidence"]) == (3, 1.2, level)


JOIN = (f"_wait_for_tstate_lock ({LIB}/threading.py:1120)", f"join ({LIB}/threading.py:1100)")
QUEUE = (f"wait ({LIB}/threading.py:320)", f"get ({LIB}/queue.py:171)")
LOCK_DECOYS: dict[str, list[Life]] = {
    "a join": [life([hold(4 * S, PID + 1, inner=JOIN)]), life([run(4 * S)], tid=PID + 1)],
    "an idle pool": [
        life([run(4 * S)]),
        *[life([hold(500 * MS, PID, LOCK + 64 * n, "_worker"), run(MS)] * 8, tid=PID + n) for n in (1, 2, 3)],
    ],
    "consumers of one queue": [
        life([run(4 * S)]),
        *[life([hold(500 * MS, PID, site=None), run(MS)] * 8, tid=PID + n) for n in (1, 2, 3)],
    ],
    "work handed to and fro": [
        life([hold(100 * MS, PID + 1, LOCK, None), run(MS)] * 30),
        life([hold(100 * MS, PID, LOCK + 64, None), run(MS)] * 30, tid=PID + 1),
    ],
    "queues that reuse their locks": convoy(inner=QUEUE),
    "a short convoy": [
        life([hold(2 * MS, PID + 1), run(60 * MS)] * 30),
        life([hold(2 * MS, PID), run(60 * MS)] * 30, tid=PID + 1),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", LOCK_DECOYS)
def test_waiting_for_work_is_no_contention(name: str) -> None:
    """Most waits on a futex are for somebody to finish, not to let go."""
    assert not kinds(LOCK_DECOYS[name])


# --- blocking_disk, blocking_subprocess ----------------------------------------------------------------


def test_a_driver_that_flushes() -> None:
    """The line that waits for the disk; short waits without slices go with it."""
    flush = at(Step(Wait.DISK, 50 * MS, 0, syscall=74), "save")
    steps = [infer(100 * MS), *[flush, run(MS), asleep(Wait.DISK, MS // 2)] * 4] * 5 + [infer(MS)]
    (found,) = findings([life(steps)])
    assert (found["kind"], found["function"], found["syscall"]) == ("blocking_disk", "save", "fsync")
    assert (found["blocked_s"], found["engine_idle_s"]) == (pytest.approx(1.01), pytest.approx(1.01))
    assert "flush" in found["advice"]


def test_a_main_thread_that_reads() -> None:
    """Without an engine a tenth of a main thread's life is enough; less, or another thread, is not."""
    (found,) = findings([life([waits(Wait.DISK, 100 * MS, "load"), run(400 * MS)] * 5)])
    assert (found["kind"], found["function"]) == ("blocking_disk", "load")
    little = life([asleep(Wait.DISK, 10 * MS), run(400 * MS)] * 5)
    beside = life([asleep(Wait.DISK, 100 * MS), run(MS)] * 10, tid=PID + 1)
    assert not kinds([little, beside])


def test_a_driver_that_waits_for_a_program() -> None:
    """The child is named, and what it writes is waited for as well as its end."""
    pipe = (f"Popen._communicate ({LIB}/subprocess.py:2100)", f"run ({LIB}/subprocess.py:550)")
    steps = between(
        waits(Wait.POLL, 2 * S, "build", inner=pipe), waits(Wait.CHILD, 50 * MS, "build", inner=pipe)
    )
    child = (
        born(99, PID, START + S),
        Exec(1, START + S + MS, 99, 99, "make", "/usr/bin/make", 0),
        died(99, START + 3 * S),
    )
    report = observe([life(steps)], extra=child)
    check(report)
    (found,) = report["findings"]
    assert (found["kind"], found["function"], found["child"]) == ("blocking_subprocess", "build", "make")
    assert found["blocked_s"] == found["engine_idle_s"] == pytest.approx(2.05)
    assert report["threads"][0]["states"]["child"] == pytest.approx(2.05)


@pytest.mark.parametrize("wait", [Wait.PIPE, Wait.UNIX])
def test_what_a_forked_child_writes_is_waited_for_as_the_child(wait: Wait) -> None:
    """No subprocess on the stack: the one who ends the wait says whose pipe it was."""
    steps = [at(asleep(wait, S)._replace(waker=77, waker_pid=77), "ask"), run(MS)] * 3
    family = (born(66, PID, START + 1), born(77, 66, START + 2), born(88, 1, START + 3))
    report = observe([life(steps)], extra=family)
    check(report)
    (found,) = report["findings"]
    assert (found["kind"], found["function"]) == ("blocking_subprocess", "ask")
    assert report["threads"][0]["states"] == {"running": 0.003, "child": 3.0}
    stranger = [step._replace(waker_pid=88 if step.waker else 0) for step in steps]
    assert not kinds([life(stranger)])


POOL = (f"_recv ({LIB}/multiprocessing/connection.py:395)",)
CHILD_DECOYS: dict[str, list[Step]] = {
    "its own workers": [waits(Wait.CHILD, 4 * S, "main", inner=POOL)],
    "a quick one": [waits(Wait.CHILD, 50 * MS, "main"), run(S)],
}


@pytest.mark.parametrize("name", CHILD_DECOYS)
def test_children_that_cost_nothing(name: str) -> None:
    """A pool that waits for its workers, and a child that is soon done."""
    assert not kinds([life(CHILD_DECOYS[name])])


def test_a_shell_has_nothing_else_to_do() -> None:
    """A launcher waits for what it launched; a Python program that does is told so."""
    shell = life([asleep(Wait.CHILD, 4 * S)], pid=50)
    start = (born(50, PID, START), Exec(1, START, 50, 50, "sh", "/bin/sh", 0))
    assert not kinds([life([asleep(Wait.SIGNAL, 4 * S)]), shell], extra=start)
    assert kinds([life([waits(Wait.CHILD, S, "main"), run(MS)] * 4)]) == ["blocking_subprocess"]


# --- busy_polling --------------------------------------------------------------------------------------


def test_a_thread_that_looks_again_and_again() -> None:
    """Thousands of short sleeps, most of them too short for a slice."""
    steps = [asleep(Wait.SLEEP, 900_000), run(50_000)] * 2000 + [waits(Wait.SLEEP, 2 * MS, "poll")]
    (found,) = findings([life(steps)])
    assert (found["kind"], found["count"], found["function"]) == ("busy_polling", 2001, "poll")
    assert found["mean_s"] == pytest.approx(0.0009, rel=0.01)


def test_a_driver_that_polls_for_work() -> None:
    """Its sleeps are what the engine waits for."""
    steps = [infer(100 * MS), *[waits(Wait.SLEEP, MS, "poll"), run(10_000)] * 300] * 3 + [infer(MS)]
    (found,) = findings([life(steps)])
    assert (found["kind"], found["engine_idle_s"]) == ("busy_polling", pytest.approx(0.9))


POLL_DECOYS: dict[str, list[Life]] = {
    "an active server": [life([Step(Wait.EPOLL, 900_000), run(100_000)] * 3000)],
    "a heartbeat": [life([asleep(Wait.SLEEP, 100 * MS), run(MS)] * 300)],
    "a few retries": [life([asleep(Wait.SLEEP, MS), run(MS)] * 50)],
    "beside a driver": [
        life([infer(S)] * 3), life([asleep(Wait.SLEEP, MS), run(MS)] * 1000, tid=PID + 1)],
}  # fmt: skip


@pytest.mark.parametrize("name", POLL_DECOYS)
def test_short_waits_are_not_all_polling(name: str) -> None:
    """Being given work often is not looking for it."""
    assert not kinds(POLL_DECOYS[name])


# --- all -----------------------------------------------------------------------------------------------


def test_a_wait_that_was_not_read_lowers_confidence() -> None:
    """When stacks of other waits were read, a finding without one says so."""
    steps = between(at(asleep(Wait.SLEEP, MS), "f"), call(2 * S))
    (found,) = findings([life(steps)])
    assert (found["confidence"], found["confidence_reasons"]) == (
        "medium",
        ["no stack of this wait was read"],
    )


@pytest.mark.parametrize("number", [10, 30, 200])
def test_a_tool_that_is_started_for_each_call_is_one_culprit_however_often(number: int) -> None:
    """Each of thirty is less than is worth a finding; together they are all that the engine waits for."""
    steps: list[Step] = []
    tools: list[Life] = []
    extra: list[Any] = []
    now = START
    for tool in range(PID + 1, PID + 1 + number):
        steps += [infer(100 * MS), Step(Wait.CHILD, S, waker_pid=tool, waker=tool, syscall=61)]
        now += 100 * MS
        extra.append(born(tool, PID, now))
        waits_for = call(S - 10 * MS, peer(local_port=40_000 + tool % 20_000))
        tools.append(life([waits_for], pid=tool, start=now, ended=True, name="curl"))
        now += S
        extra.append(died(tool, now))
    steps.append(infer(100 * MS))
    (found,) = findings([life(steps), *tools], "blocking_network_call", extra=tuple(extra))
    assert found["processes"] == number
    assert found["severity"] == "high"
    assert found["share_of_idle"] == pytest.approx(0.99, abs=0.011)
    assert found["engine_idle_s"] == pytest.approx(number, rel=0.02)
    assert found["blocked_s"] == pytest.approx(0.99 * number)


def test_look_ups_before_the_first_inference_starved_nothing() -> None:
    """The engine's idle time is what it is, whatever else took as long."""
    server = peer("10.0.0.53", 53, local_port=40_001)
    steps = [call(20 * S, server), infer(S), asleep(Wait.SLEEP, 25 * S), infer(S)]
    extra = tuple(Lookup(PID, PID, START + i * S, START + (i + 1) * S, "h", 0) for i in range(20))
    (found,) = findings([life(steps)], "slow_dns", extra=extra)
    assert found["engine_idle_s"] is None
    assert found["blocked_s"] == pytest.approx(20)
    steps = [infer(S), call(20 * S, server), infer(S), asleep(Wait.SLEEP, 25 * S), infer(S)]
    later = tuple(one._replace(start_ns=one.start_ns + S, end_ns=one.end_ns + S) for one in extra)
    (found,) = findings([life(steps)], "slow_dns", extra=later)
    assert found["engine_idle_s"] == pytest.approx(20)


def test_look_ups_of_many_threads_take_no_longer_than_the_run() -> None:
    """A share of the run is at most all of it."""
    extra = tuple(Lookup(PID, PID + 1 + i, START, START + 6 * S, "h", 0) for i in range(32))
    (found,) = findings([life([infer(S), asleep(Wait.SLEEP, 9 * S)])], "slow_dns", extra=extra)
    assert found["share_of_wall"] == pytest.approx(0.6)
