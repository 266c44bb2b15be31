"""Which line of whose code a wait was in, and which host it waited for."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from report_schema import check
from timeline import MS, PID, START, S, Step, asleep, at, call, infer, life, observe, peer, run

from whyidle_daemon.facts import HostName, Site, StackSample
from whyidle_daemon.sites import MAX_PLACES, MAX_SAMPLES, Sites
from whyidle_probes.events import Wait

FAR = "93.184.216.34"


def named(host: str, address: str = FAR, pid: int = PID, ns: int = START) -> HostName:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return HostName(pid, ns, int(family), socket.inet_pton(family, address), host)


def agent(*steps: Step) -> list[Step]:
    return [infer(100 * MS), *steps, infer(MS)]


def test_the_line_that_waits_is_named() -> None:
    """Function, file, line and stack are in the finding, the function in gaps and idle causes."""
    report = observe([life(agent(at(call(S), "search", 12), run(MS)))])
    check(report)
    (found,) = report["findings"]
    assert (found["function"], found["file"], found["line"]) == ("search", "/app/agent.py", 12)
    assert found["stack"] == ["search (/app/agent.py:12)", "<module> (/app/agent.py:99)"]
    assert report["gaps"][0]["causes"][0]["function"] == "search"
    assert report["idle_by_cause"][0]["function"] == "search"
    assert report["idle_by_cause"][1]["function"] is None


@pytest.mark.parametrize(
    ("wait", "state"),
    [
        (Wait.SLEEP, "sleep"),
        (Wait.FUTEX, "lock"),
        (Wait.GIL, "gil"),
        (Wait.DISK, "disk"),
        (Wait.CHILD, "child"),
        (Wait.PIPE, "local_ipc"),
        (Wait.UNIX, "local_ipc"),
        (Wait.THROTTLED, "throttled"),
        (Wait.EPOLL, "event_loop"),
    ],
)
def test_every_kind_of_wait_has_a_function(wait: Wait, state: str) -> None:
    """Not only sockets: whatever the driver waited in, its function is in the idle time."""
    report = observe([life(agent(at(asleep(wait, S), "pause")))])
    check(report)
    first = report["idle_by_cause"][0]
    assert (first["state"], first["function"], first["seconds"]) == (state, "pause", 1.0)


def test_a_wait_that_lasts_has_a_line() -> None:
    """A search that hangs is named while it hangs."""
    report = observe([life([infer(MS), at(call(9 * S), "search")], open_last=True)])
    check(report)
    (found,) = report["findings"]
    assert (found["function"], found["open_s"]) == ("search", 9.0)
    assert report["gaps"][0]["causes"][0]["function"] == "search"


def test_two_lines_are_two_findings() -> None:
    """The same peer from two places is told apart, and each wait that was not sampled stays nameless."""
    steps = [at(call(S), "search", 1), at(call(2 * S), "fetch", 2), call(3 * S)]
    report = observe([life(agent(*steps))])
    check(report)
    rows = {(f["function"], f["line"]): f["blocked_s"] for f in report["findings"]}
    assert rows == {("search", 1): 1.0, ("fetch", 2): 2.0, (None, None): 3.0}


def test_waits_without_a_sample_belong_to_the_place_that_dominates() -> None:
    """Short waits, the wait for the connection, and those beyond the rate limit go with the others."""
    to = peer(tcp_state=2)
    search = at(
        call(S), "search", inner=("HTTPResponse._read_status (/usr/lib/python3.11/http/client.py:280)",)
    )
    steps = [call(20 * MS, to, 42), search, call(MS // 2), call(S), search]
    report = observe([life(agent(*steps))])
    check(report)
    found = report["findings"][0]
    assert {f["kind"] for f in report["findings"]} == {"blocking_network_call", "sequential_calls"}
    assert (found["function"], found["blocked_s"]) == ("search", pytest.approx(3.0205))
    assert found["saves_by"]["gather"] == pytest.approx(2.0, abs=0.001)


def test_few_samples_that_agree_name_many_waits() -> None:
    """Waits that are too many to read one by one get their function from those that were read."""
    read = [at(asleep(Wait.GIL, 2 * MS), "spin", line) for line in (7, 8, 7, 7, 8)]
    report = observe([life([run(MS), *read, *[asleep(Wait.GIL, 2 * MS)] * 400])])
    (found,) = [f for f in report["findings"] if f["kind"] == "gil_contention"]
    assert (found["function"], found["line"]) == ("spin", 7)


def short(wait: Wait, ns: int, function: str, line: int = 1) -> Step:
    """A wait below the slice threshold, during which the stack was read."""
    return at(asleep(wait, ns), function, line)


@pytest.mark.parametrize(
    ("others", "function"),
    [([], "poll"), (["poll"] * 3 + ["tidy"] * 7, None), (["poll"] * 60 + ["tidy"] * 3, "poll")],
)
def test_waits_too_short_for_slices_have_the_function_of_their_samples(
    others: list[str], function: str | None
) -> None:
    """Nothing is known of one such wait but the thread's totals; the samples say where they mostly are."""
    steps = [short(Wait.SLEEP, MS // 2, "poll", line) for line in (3, 3, 4, 3, 4, 3)]
    steps += [short(Wait.SLEEP, MS // 2, name) for name in others]
    report = observe([life([run(MS), *steps, *[asleep(Wait.SLEEP, MS // 2)] * 400, run(MS)])])
    check(report)
    (found,) = report["findings"]
    assert (found["kind"], found["function"]) == ("busy_polling", function)
    assert found["blocked_s"] == pytest.approx((len(steps) + 400) / 2000)


def test_too_few_samples_of_short_waits_name_nothing() -> None:
    """One sample may be the exception."""
    steps = [short(Wait.SLEEP, MS // 2, "poll"), *[asleep(Wait.SLEEP, MS // 2)] * 400]
    (found,) = observe([life([run(MS), *steps])])["findings"]
    assert found["function"] is None


def test_short_waits_for_a_peer_have_a_function() -> None:
    """Sums by peer are matched with samples of waits for that peer, and with no others."""
    there = peer("10.0.0.1", 80)
    steps = [at(call(MS // 2, there), "ask") for _ in range(6)]
    steps += [call(MS // 2, there) for _ in range(600)]
    (found,) = observe([life(agent(*steps))])["findings"]
    assert (found["kind"], found["function"]) == ("blocking_network_call", "ask")
    elsewhere = [call(MS // 2, peer("10.0.0.2", 80)) if step.site is None else step for step in steps]
    (found,) = observe([life(agent(*elsewhere))])["findings"]
    assert (found["peer"]["address"], found["function"]) == ("10.0.0.2", None)


def test_a_wait_that_lasts_is_not_short() -> None:
    """Its sample waits for it, however many samples of other threads come meanwhile."""
    sites = Sites(samples=100)
    site = Site("search", "/app/agent.py", 1, ())
    sites.add(StackSample(1, 1, START, site, "", Wait.TCP))
    for number in range(1000):
        sites.add(StackSample(1, 2 + number % 3, START + number, site, "", Wait.SLEEP))
    assert len(sites) <= 100
    assert sites.peek(1, 1, START) is not None
    counted = {each.of.tid: sum(each.places.values()) for each in sites.short(lambda *_: False)}
    assert sum(counted.values()) == 1001


def test_a_sample_of_another_wait_names_nothing() -> None:
    """Only the wait during which the stack was read gets it."""
    one = life(agent(call(S)))
    stale = StackSample(PID, PID, START + 1, Site("other", "/x.py", 1, ()))
    report = observe([one], extra=(stale,))
    assert [f["function"] for f in report["findings"]] == [None]


@pytest.mark.parametrize(("read_at", "name"), [(START + 1, "fetch_0"), (START - 1, "agent")])
def test_a_thread_has_the_name_that_python_gives_it(read_at: int, name: str) -> None:
    """If it was read in that thread's life: a thread ID is given to another one, too."""
    one = life(agent(call(S)))
    kernels = observe([one])["threads"][0]["name"]
    sample = StackSample(PID, PID, read_at, Site("fetch", "/x.py", 1, ()), thread="fetch_0")
    assert observe([one], extra=(sample,))["threads"][0]["name"] == {"agent": kernels}.get(name, name)


def test_samples_and_places_are_bounded() -> None:
    """A target that makes up functions, or whose slices are lost, fills no memory."""
    sites = Sites()
    for number in range(MAX_SAMPLES + 5000):
        sites.add(StackSample(1, 1, number, Site(f"f{number % 5000}", "x" * 9999, 1, ("y" * 999,) * 200)))
    assert len(sites) <= MAX_SAMPLES
    assert len(sites._stacks) <= MAX_PLACES
    assert all(len(stack) <= 128 and len(stack[0]) <= 500 for stack in sites._stacks.values())


def peers(report: dict[str, Any]) -> list[Any]:
    return [found["peer"]["host"] for found in report["findings"]]


def test_host_is_what_the_process_looked_up() -> None:
    """Its own latest name before the wait; another process's if it has none; in all parts of the report."""
    steps = [life(agent(at(call(S), "search")))]
    names = (
        named("old.example", ns=START + 1),
        named("search.example", ns=START + 2),
        named("other.example", pid=77, ns=START + 3),
        named("later.example", ns=START + 9 * S),
    )
    report = observe(steps, extra=names)
    check(report)
    assert peers(report) == ["search.example"]
    assert "search.example:443" in report["findings"][0]["advice"]
    assert report["idle_by_cause"][0]["peer"]["host"] == "search.example"
    assert report["gaps"][0]["causes"][0]["peer"]["host"] == "search.example"
    assert peers(observe(steps, extra=(named("other.example", pid=77),))) == ["other.example"]
    assert peers(observe(steps)) == [None]


def test_addresses_of_one_host_are_one_finding() -> None:
    """A host with several addresses is what its user thinks it is: one host."""
    steps = [at(call(S, peer(far)), "search") for far in ("1.1.1.1", "::ffff:1.1.1.2", "::3")]
    names = (named("s.example", "1.1.1.1"), named("s.example", "1.1.1.2"), named("s.example", "::3"))
    report = observe([life(agent(*steps))], extra=names)
    check(report)
    (found,) = report["findings"]
    assert (found["peer"]["host"], found["blocked_s"], found["count"]) == ("s.example", 3.0, 3)
