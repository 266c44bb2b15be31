"""Who is blamed, for how much, how surely; and who is not, though it looks guilty."""

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
    call,
    infer,
    life,
    observe,
    peer,
    queued,
    run,
)

from whyidle_daemon.facts import Loss, ProcessFacts
from whyidle_probes.events import Wait
from whyidle_wire.report import FINDING_KINDS

CONNECT, POLL, RECV = 42, 7, 45
NET = "blocking_network_call"


def findings(lives: list[Life], kind: str | None = None, **options: Any) -> list[dict[str, Any]]:
    report = observe(lives, **options)
    check(report)
    wanted = [kind] if kind else [k for k in FINDING_KINDS if k not in ("no_demand", "engine_saturated")]
    return [found for found in report["findings"] if found["kind"] in wanted]  # no mere information


def loop(searches: int, loops: int = 6, ns: int = 500 * MS) -> list[Step]:
    """Infer, then search some times over, each search on its own connection."""
    steps: list[Step] = []
    port = 40_000
    for _ in range(loops):
        steps += [infer(300 * MS), run(MS)]
        for _ in range(searches):
            port += 1
            to = peer(local_port=port)
            steps += [call(10 * MS, to._replace(tcp_state=2), CONNECT), call(ns, to, POLL), run(MS)]
    return [*steps, infer(MS)]


# --- blocking_network_call -----------------------------------------------------------------------------


def test_one_finding_per_peer_with_calls_as_a_user_counts_them() -> None:
    """Connecting and waiting for the answer are one call to one peer, not two findings."""
    (found,) = findings([life(loop(3))], NET)
    assert (found["kind"], found["severity"], found["confidence"]) == (
        "blocking_network_call",
        "high",
        "high",
    )
    assert (found["count"], found["connections"]) == (18, 18)
    assert found["calls"] == {"connect": 18, "poll": 18}
    assert found["syscall"] == "poll"
    assert found["blocked_s"] == pytest.approx(18 * 0.51)
    assert found["engine_idle_s"] == pytest.approx(18 * 0.51)
    assert found["longest_s"] == pytest.approx(0.5)
    assert found["confidence_reasons"] == ["every wait was seen: 0 events lost"]
    assert "93.184.216.34:443" in found["advice"]
    assert "18 times" in found["advice"]


def test_saving_of_calls_issued_together_is_all_but_the_longest_of_each_gap() -> None:
    """Three searches between two inferences become as long as one: that, and not more, is promised."""
    (found,) = findings([life(loop(3))], NET)
    assert found["saves_by"]["gather"] == pytest.approx(6 * 2 * 0.5)
    assert found["saves_s"] == found["saves_by"]["gather"]
    assert "asyncio.gather" in found["advice"]


def test_saving_of_single_calls_is_what_inference_can_hide() -> None:
    """One search per gap cannot be gathered; beside inference it hides as much as there is inference."""
    (found,) = findings([life(loop(1))])
    assert found["saves_by"]["gather"] == 0
    assert found["saves_by"]["overlap"] == found["saves_s"] == pytest.approx(6 * 0.3 + 0.001)


def test_several_peers_are_several_findings_the_costliest_first() -> None:
    """Each remote address and port has its own finding."""
    steps = [infer(100 * MS), call(S, peer("1.1.1.1")), call(3 * S, peer("::2", 80)), infer(MS)]
    found = findings([life(steps)])
    assert [f["peer"]["address"] for f in found] == ["::2", "1.1.1.1"]


def test_waits_inside_a_call_of_the_engine_are_not_its_idleness() -> None:
    """Only the part of a wait in which the engine was idle is charged."""
    steps = [call(2 * S), infer(S), call(3 * S), infer(S)]
    (found,) = findings([life(steps)])
    assert found["blocked_s"] == pytest.approx(5)
    assert found["engine_idle_s"] == pytest.approx(3)
    assert found["share_of_idle"] == pytest.approx(1)


def test_small_waits_are_no_finding() -> None:
    """Less than a tenth of a second, or less than 5 % of the idleness and the run, is not worth a line."""
    assert not findings([life([infer(S), call(90 * MS), infer(S)])])
    slow = [infer(S), call(150 * MS), asleep(Wait.SLEEP, 10 * S), infer(S)]
    assert not findings([life(slow)])


def test_without_an_engine_the_main_thread_is_enough() -> None:
    """A program that waits for the network most of its time is told so, engine or not."""
    (found,) = findings([life([run(100 * MS), *[call(300 * MS)] * 7])])
    assert (found["engine_idle_s"], found["share_of_idle"], found["count"]) == (None, None, 7)
    assert found["saves_s"] == pytest.approx(6 * 0.3)


def test_without_an_engine_a_joined_worker_is_enough() -> None:
    """Workers that the main thread waits for are one finding per peer, less sure than the main thread."""
    main = life([asleep(Wait.FUTEX, 3 * S)])
    workers = [life([call(S)] * 3, tid=PID + n) for n in (1, 2, 3)]
    (found,) = findings([main, *workers])
    assert (found["threads"], found["confidence"]) == (3, "medium")


def test_loss_lowers_confidence_and_says_so() -> None:
    """More than one wait in a thousand lost makes a finding less sure; a few do not."""
    (sure,) = findings([life(loop(100))], NET, loss=Loss(slices_lost=1))
    (unsure,) = findings([life(loop(100))], NET, loss=Loss(slices_lost=600))
    (poor,) = findings([life(loop(3))], NET, loss=Loss(slices_lost=600, control_lost=3, blind_ns=S))
    assert [f["confidence"] for f in (sure, unsure, poor)] == ["high", "medium", "low"]
    assert "600 of" in unsure["confidence_reasons"][0]
    assert len(poor["confidence_reasons"]) == 3


def test_unknown_peer_lowers_confidence() -> None:
    """A UDP socket that is not connected has no other end to name."""
    to = peer("0.0.0.0", 0)
    steps = [infer(S), call(S, to)._replace(wait=Wait.UDP), infer(S)]
    (found,) = findings([life(steps)])
    assert (found["peer"], found["confidence"]) == (None, "medium")


# --- decoys --------------------------------------------------------------------------------------------


def serving(tid: int, local_port: int = 8080) -> Life:
    """A server's worker, waiting on kept-alive connections for the next request."""
    steps = [call(900 * MS, peer("10.0.0.9", 50_000 + n, local_port)) for n in range(4)]
    return life(steps, tid=tid)


def accepting(tid: int = PID) -> Life:
    """A server's main loop."""
    listening = peer("0.0.0.0", 0, 8080, tcp_state=10)
    return life([Step(Wait.LISTEN, 600 * MS, 0, listening, 43)] * 6, tid=tid)


DECOYS: dict[str, list[Life]] = {
    "accept loop": [accepting()],
    "server worker": [accepting(), serving(PID + 1)],
    "main thread serves": [life([*[Step(Wait.LISTEN, MS, 0, peer(local_port=80), 43)], *[
        call(S, peer("10.0.0.9", 50_000, 80))] * 4])],
    "server without accept in sight": [serving(PID)],
    "idle pool": [life([asleep(Wait.FUTEX, 5 * S)], tid=PID + n) for n in range(1, 9)],
    "event loop": [life([Step(Wait.EPOLL, S, 0), run(MS)] * 5)],
    "sleeper": [life([asleep(Wait.SLEEP, 5 * S)])],
    "heartbeat beside a model": [
        life([infer(S), asleep(Wait.SLEEP, S)] * 3),
        life([call(2 * S, peer("10.0.0.1", 80))] * 3, tid=PID + 1),
    ],
    "long poll without a model": [
        life([Step(Wait.EPOLL, S, 0)] * 6),
        life([call(6 * S, peer("10.0.0.1", 80))], tid=PID + 1),
    ],
    "busy engine": [life([infer(S), run(MS)] * 5)],
    "spinning engine threads": [life([infer(S)] * 5), *[life([run(5 * S)], tid=PID + n) for n in (1, 2)]],
    "short queueing": [life([run(10 * MS), queued(MS)] * 200)],
}  # fmt: skip


@pytest.mark.parametrize("name", DECOYS)
def test_decoys_are_not_blamed(name: str) -> None:
    """What only looks guilty is no finding."""
    assert not findings(DECOYS[name])


# --- cpu_starved ---------------------------------------------------------------------------------------


def test_starved_driver_is_named_with_its_neighbour() -> None:
    """A driver that queues for a CPU loses that time, and the one that used the CPU is named."""
    steps = [infer(500 * MS), run(100 * MS), queued(300 * MS)] * 5 + [infer(MS)]
    hog = life([run(4 * S)], pid=77, name="hog")
    facts = (ProcessFacts(77, 1, ("make", "-j8"), None, START),)
    (found,) = findings([life(steps), hog], extra=facts)
    assert (found["kind"], found["pid"], found["severity"]) == ("cpu_starved", PID, "high")
    assert found["saves_s"] == found["blocked_s"] == found["engine_idle_s"] == pytest.approx(1.5)
    assert found["neighbours"][0]["command"] == "make -j8"
    assert "make -j8" in found["advice"]


def test_waking_often_is_not_starving() -> None:
    """A thread that sleeps a thousand times is a little late each time, as on any host: no CPU is missing."""
    late = 150_000
    steps = [run(200_000), queued(late)] * 2000
    assert findings([life(steps)]) == []


def test_queueing_inside_calls_is_saved_but_was_not_idleness() -> None:
    """A driver preempted inside llama_decode makes the call longer; the engine was busy meanwhile."""
    base = life([infer(S), run(MS), infer(S)])
    ns = list(base.thread.ns)
    ns[Wait.RUNQUEUE] += S
    ns[Wait.RUNNING] -= S
    (found,) = findings([base._replace(thread=base.thread._replace(ns=tuple(ns)))])
    assert (found["saves_s"], found["engine_idle_s"]) == (1.0, 0.0)


def test_own_spinning_threads_are_one_finding() -> None:
    """Threads of one process that push each other off the CPUs: fewer of them, said once."""
    main = life([run(50 * MS), queued(50 * MS)] * 40)
    workers = [life([run(50 * MS), queued(50 * MS)] * 40, tid=PID + n) for n in range(1, 4)]
    (found,) = findings([main, *workers])
    assert (found["threads"], found["tid"]) == (4, PID)
    assert "n_threads" in found["advice"]


def test_starvation_does_not_rest_on_slices() -> None:
    """Totals are exact whatever was lost, so lost slices do not make this less sure."""
    steps = [run(100 * MS), queued(100 * MS)] * 10
    (found,) = findings([life(steps)], loss=Loss(slices_lost=10_000))
    assert found["confidence"] == "high"
    assert "CPU" in found["advice"]


def test_a_crowded_host_is_not_hundreds_of_findings() -> None:
    """Processes without an engine that all queue: the worst few, and how many there are."""
    crowd = [life([run(100 * MS), queued(900 * MS)] * 3, pid=1000 + n) for n in range(200)]
    found = findings([life([asleep(Wait.SIGNAL, 3 * S)]), *crowd], roots=(PID,))
    assert len(found) == 3
    assert found[0]["processes"] == 200


def test_advice_is_one_printable_line_whatever_a_target_calls_itself() -> None:
    """A command with newlines and escape sequences cannot break the sentence."""
    steps = [run(100 * MS), queued(200 * MS)] * 10
    hog = life([run(3 * S)], pid=77)
    facts = (ProcessFacts(77, 1, ("/bin/py\x1b[31m", "-c", "a\nb" * 50), None, START),)
    rude = life(steps, tid=PID, name="a\nb\x1b]0;x")
    (found,) = findings([rude, hog], extra=facts)
    assert found["advice"].isprintable()
    driver = life([infer(S), call(S), call(S), infer(S)], tid=PID + 1, name="a\nb")
    (found,) = findings([driver])
    assert found["advice"].isprintable()
    assert found["advice"].startswith("Thread a b waited 2 times")
