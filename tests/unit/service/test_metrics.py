"""Metrics only grow, stay bounded whatever runs, and their endpoint survives whoever connects."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from whyidle_daemon.config import Metrics
from whyidle_daemon.facts import ProcessFacts
from whyidle_daemon.metrics.exporter import Exporter
from whyidle_daemon.metrics.exposition import Own, page
from whyidle_daemon.metrics.http import MAX_CONNECTIONS, MAX_HEAD, Endpoint
from whyidle_daemon.metrics.ledger import BUCKETS, CARRY_S, MAX_FUNCTIONS, Ledger
from whyidle_daemon.metrics.workloads import OTHER, QUIET_S, workload_of
from whyidle_daemon.observation import Observation
from whyidle_daemon.targets import Targets
from whyidle_probes.events import Exit, Gap, Inference

SAMPLE = json.loads((Path(__file__).parents[1] / "cli" / "sample_report.json").read_text())
OWN = Own("1.2", 3.0, 40_000_000, None, {"slices": 7}, 2, 0.004)


def report(seconds: float = 1.0, function: str = "search_web", blind: float = 0.0) -> dict[str, Any]:
    found: dict[str, Any] = copy.deepcopy(SAMPLE)
    found["threads"] = [{"pid": 1, "tid": 1, "name": "x", "wall_s": seconds, "states": {"network": seconds}}]
    found["engines"] = [{**SAMPLE["engines"][0], "busy_s": seconds, "idle_s": 2 * seconds}]
    cause = {**SAMPLE["idle_by_cause"][0], "seconds": 2 * seconds, "function": function}
    found["idle_by_cause"] = [{**cause, "state": "network", "cause": "network"}]
    found["loss"]["seconds_blind"] = blind
    found["processes"] = [{**SAMPLE["processes"][0], "rss_end_bytes": 1000, "end_s": None}]
    return found


def samples(ledger: Ledger) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """As Prometheus reads them."""
    text = page(ledger, lambda: OWN).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(ledger: Ledger, name: str, **labels: str) -> float:
    return samples(ledger)[name, tuple(sorted(labels.items()))]


def test_sums_of_observations_that_ended_and_that_run() -> None:
    """A workload's counters are the sums over all its observations."""
    ledger = Ledger(10, functions=True)
    ledger.update(1, "agents.service", report(3.0), 0.0)
    ledger.update(1, "agents.service", report(5.0), 1.0)
    ledger.end(1)
    ledger.update(2, "agents.service", report(1.0), 2.0)
    where = {"workload": "agents.service"}
    assert value(ledger, "whyidle_state_seconds_total", state="network", **where) == 6.0
    assert value(ledger, "whyidle_engine_busy_seconds_total", engine="llama", **where) == 6.0
    assert value(ledger, "whyidle_engine_idle_seconds_total", engine="llama", **where) == 12.0
    assert value(ledger, "whyidle_idle_seconds_total", state="network", **where) == 12.0
    name = "whyidle_idle_function_seconds_total"
    assert value(ledger, name, state="network", function="search_web", **where) == 12.0
    assert value(ledger, "whyidle_targets", **where) == 1
    assert value(ledger, "whyidle_memory_bytes", **where) == 1000
    assert value(ledger, "whyidle_daemon_cpu_seconds_total") == 3.0
    assert value(ledger, "whyidle_lost_total", what="slices") == 7


def test_a_server_that_nobody_calls_is_not_stuck_in_a_lock() -> None:
    """Idle time goes by its cause: the state of a worker that waits to be called says nothing of why."""
    ledger = Ledger(10, functions=True)
    idle = report(1.0, function="next_request")
    idle["idle_by_cause"][0].update(state="lock", cause="no_demand")
    ledger.update(1, "server", idle, 0.0)
    where = {"workload": "server", "state": "no_demand"}
    assert value(ledger, "whyidle_idle_seconds_total", **where) == 2.0
    assert value(ledger, "whyidle_idle_function_seconds_total", function="next_request", **where) == 2.0
    assert not [
        key for key in samples(ledger) if key[0].startswith("whyidle_idle") and ("state", "lock") in key[1]
    ]


def test_a_restart_that_many_lived_through_is_counted_once() -> None:
    """For so long there was no daemon: once for the host, and for each target for the workloads."""
    ledger = Ledger(10, functions=False)
    assert value(ledger, "whyidle_daemon_blind_seconds_total") == 0.0  # an increase needs a beginning
    for number in range(25):
        ledger.update(number, "agents", report(blind=3.0), 0.0)
    ledger.update(25, "tools", report(blind=2.0), 0.0)
    for number in range(26):  # a part later nothing is said of it any more
        ledger.cut(number)
        ledger.update(number, "agents", report(blind=0.0), 1.0)
    assert value(ledger, "whyidle_daemon_blind_seconds_total") == 3.0
    assert value(ledger, "whyidle_blind_seconds_total", workload="agents") == 75.0


def on_gpu(busy: float, idle: float, gpu: str = "nvml:0") -> dict[str, Any]:
    """The report of an observation of which a GPU was busy and idle for so long."""
    found = report()
    engine = {**SAMPLE["engines"][0], "kind": "nvml", "id": gpu, "copy_s": 0.0, "finest": False}
    found["engines"] = [{**engine, "busy_s": busy, "idle_s": idle}]
    return found


def gpu_seconds(ledger: Ledger, workload: str, gpu: str = "nvml:0") -> tuple[float, float]:
    where = {"workload": workload, "gpu": gpu}
    names = (f"whyidle_gpu_{what}_seconds_total" for what in ("busy", "idle"))
    return tuple(value(ledger, name, **where) for name in names)  # type: ignore[return-value]


def test_a_gpu_that_agents_share_has_each_second_once() -> None:
    """Of a workload: two workloads on a GPU have each all that it did meanwhile."""
    ledger = Ledger(10, functions=False)
    for now in (10.0, 20.0, 30.0):
        for number in (1, 2):
            ledger.update(number, "agents", on_gpu(0.75 * now, 0.25 * now), now)
        ledger.update(3, "others", on_gpu(0.75 * now, 0.25 * now), now)
        ledger.update(4, "others", on_gpu(0.5 * now, 0.5 * now, "nvml:1"), now)
    assert gpu_seconds(ledger, "agents") == gpu_seconds(ledger, "others") == (22.5, 7.5)
    assert gpu_seconds(ledger, "others", "nvml:1") == (15.0, 15.0)


def test_seconds_of_a_gpu_that_only_one_agent_saw() -> None:
    """One that came and went beside another hides nothing of it, nor does a cut."""
    ledger = Ledger(10, functions=False)
    ledger.update(1, "agents", on_gpu(5.0, 5.0), 100.0)  # of 90 to 100
    ledger.end(1)
    ledger.update(2, "agents", on_gpu(0.0, 110.0), 110.0)  # of all the time, and told only now
    assert gpu_seconds(ledger, "agents") == pytest.approx((5.0, 105.0))
    ledger.cut(2)
    ledger.update(2, "agents", on_gpu(10.0, 0.0), 120.0)
    assert gpu_seconds(ledger, "agents") == pytest.approx((15.0, 105.0))


@given(st.lists(st.tuples(st.integers(1, 3), st.floats(0, 9), st.sampled_from("uce")), max_size=30))
def test_a_gpu_has_no_more_seconds_than_there_were(steps: list[tuple[int, float, str]]) -> None:
    """Whoever begins, ends and is cut: from the first begin to now at most, and no less than any had."""
    ledger, now, began = Ledger(10, functions=False), 0.0, dict.fromkeys((1, 2, 3), 0.0)
    longest = 0.0
    for number, seconds, what in steps:
        now += seconds
        lasted = now - began[number]
        ledger.update(number, "agents", on_gpu(lasted / 3, lasted * 2 / 3), now)
        longest = max(longest, lasted)
        if what != "u":
            began[number] = now
            (ledger.cut if what == "c" else ledger.end)(number)
    if longest:
        assert longest - 1e-6 <= sum(gpu_seconds(ledger, "agents")) <= now + 1e-6


def test_a_cut_does_not_hide_what_was_found() -> None:
    """The history begins a new part; the bottleneck is still there, until the new part can tell."""
    ledger = Ledger(10, functions=True)
    found, nothing = report(), report()
    found["findings"][0].update(function="search_web", saves_s=4.0)
    nothing["findings"] = []
    found["target"]["duration_s"] = 600.0
    ledger.update(1, "w", found, 0.0)
    before = samples(ledger)
    where = [key for key in before if key[0] in ("whyidle_findings", "whyidle_finding_saves_seconds")]
    assert {name for name, _ in where} == {"whyidle_findings", "whyidle_finding_saves_seconds"}
    ledger.cut(1)
    for seconds in (0.5, 59.0):
        nothing["target"]["duration_s"] = seconds
        ledger.update(1, "w", nothing, 0.0)
        assert {key: samples(ledger)[key] for key in where} == {key: before[key] for key in where}
    nothing["target"]["duration_s"] = CARRY_S
    ledger.update(1, "w", nothing, 0.0)
    assert not set(where) & samples(ledger).keys()
    ledger.update(1, "w", found, 0.0)
    ledger.end(1)
    nothing["target"]["duration_s"] = 0.5
    ledger.update(1, "w", nothing, 0.0)
    assert not set(where) & samples(ledger).keys()


def test_code_is_named_only_where_that_is_wanted() -> None:
    """Whoever can connect reads it: functions, lines, and never hosts or command lines."""
    ledger = Ledger(10, functions=False)
    ledger.update(1, "w", report(), 0.0)
    text = page(ledger, lambda: OWN).decode()
    assert "search_web" not in text
    loud = Ledger(10, functions=True)
    loud.update(1, "w", report(), 0.0)
    said = page(loud, lambda: OWN).decode()
    assert "search_web" in said
    for secret in (SAMPLE["processes"][0]["command"], str(SAMPLE["findings"][0]["peer"]["address"])):
        assert secret not in said


@given(st.lists(st.tuples(st.integers(1, 3), st.floats(0, 100), st.booleans()), max_size=20))
def test_a_counter_never_goes_back(steps: list[tuple[int, float, bool]]) -> None:
    """Whatever the reports of an observation say, and when it ends."""
    ledger = Ledger(5, functions=True)
    before: dict[Any, float] = {}
    for number, seconds, ends in steps:
        ledger.update(number, f"w{number}", report(seconds), 0.0)
        if ends:
            ledger.end(number)
        now = {key: v for key, v in samples(ledger).items() if key[0].endswith("_total")}
        assert all(now[key] >= v for key, v in before.items())
        before = now


def test_ten_thousand_agents_do_not_grow_it() -> None:
    """Series and memory are bounded by the configuration; what has no place is in ``other``."""
    ledger = Ledger(20, functions=True)
    for number in range(10_000):
        name = f"run-{number}.service"
        ledger.update(number, name, report(1.0, function=f"f{number}"), number * 0.01)
        ledger.inference(name, 0.2, number * 0.01)
        ledger.end(number)
        if number % 2500 == 0:
            assert len(samples(ledger)) < 21 * 60 + 2 * MAX_FUNCTIONS
    found = samples(ledger)
    assert len({dict(labels).get("workload") for _, labels in found} - {None}) == 21
    assert len({dict(labels).get("function") for _, labels in found} - {None}) <= MAX_FUNCTIONS + 1
    busy = [v for (name, _), v in found.items() if name == "whyidle_engine_busy_seconds_total"]
    assert sum(busy) == 10_000  # none is lost
    assert sum(v for (n, _), v in found.items() if n == "whyidle_inference_seconds_count") == 10_000


def test_a_name_that_is_quiet_gives_up_its_place() -> None:
    """Its sums go to ``other``, so that totals stay right."""
    ledger = Ledger(1, functions=False)
    ledger.update(1, "old", report(4.0), 0.0)
    ledger.inference("old", 0.3, 0.0)
    ledger.end(1)
    ledger.update(2, "new", report(1.0), QUIET_S - 1)
    assert value(ledger, "whyidle_targets", workload=OTHER) == 1
    ledger.update(3, "new", report(1.0), QUIET_S + 1)
    busy = {
        dict(labels)["workload"]: v
        for (name, labels), v in samples(ledger).items()
        if name == "whyidle_engine_busy_seconds_total"
    }
    assert busy == {OTHER: 5.0, "new": 1.0}
    assert value(ledger, "whyidle_inference_seconds_count", workload=OTHER) == 1


USERS = "/user.slice/user-1000.slice/user@1000.service"


@pytest.mark.parametrize(
    ("cgroup", "rule", "name"),
    [
        ("/system.slice/vllm.service", "vLLM", "vllm.service"),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/app-x.scope", "agents", "agents"),
        (f"{USERS}/app.slice/vllm.service", "vLLM", "user:1000/vllm.service"),
        (f"{USERS}/app.slice/user@0.service/vllm.service", "vLLM", "user:1000/user@0.service"),
        (f"{USERS}/app.slice/x.scope/vllm.service", "vLLM", "vLLM"),
        (f"{USERS}", "vLLM", "vLLM"),
        ("/system.slice/his.service/made/vllm.service", "vLLM", "his.service"),
        (f"/docker/{'ab' * 32}/system.slice/vllm.service", "vLLM", "vLLM"),
        (f"/system.slice/docker-{'ab' * 32}.scope/vllm.service", "vLLM", "vLLM"),
        ("/user.slice/user-1000.slice/session-4.scope", "agents", "agents"),
        (None, None, "attached"),
        (f"/system.slice/docker-{'ab' * 32}.scope", "agents", "agents"),
    ],
)
def test_what_a_workload_is_called(cgroup: str | None, rule: str | None, name: str) -> None:
    """A service, else the rule: never a container, a session or a process, which come and go.

    Nor what a user, a service or a container named as a service of the system within its own.
    """
    assert workload_of(cgroup, rule) == name


def test_where_a_workload_began_names_it() -> None:
    """Also when its first process has ended before anybody asks."""
    target = Observation(5, (1,), ("serve",), "2026-01-01T00:00:00Z")
    assert target.cgroup is None
    target.add(ProcessFacts(1, 0, ("serve",), f"{USERS}/vllm.service", 6))
    target.add(Exit(1, 7, 1, 0, 0, "serve"))
    found, session = exporter()
    session.target.observation = target
    found.ended(session, False)
    where = {"workload": "user:1000/vllm.service", "state": "network"}
    assert value(found._ledger, "whyidle_state_seconds_total", **where) == 1.0


def inference(start: float, end: float) -> Inference:
    return Inference(1, 2, 3, 4, int(start * 1e9), int(end * 1e9), 0, 0, 5, 6, 11)


def exporter(*engines: dict[str, Any], alive: tuple[int, ...] = (2,)) -> tuple[Exporter, Any]:
    """One of a daemon that observes one target, with these engines; and that target's session."""
    where = SimpleNamespace(cgroup=None)
    target = SimpleNamespace(number=1, observation=where, report=lambda: report(1.0))
    session = SimpleNamespace(target=target)
    kernel = SimpleNamespace(
        engines=lambda number: [SimpleNamespace(**{"pid": 2, "busy": False, **each}) for each in engines],
        processes=lambda number: list(alive),
    )
    sessions = SimpleNamespace(get={1: session}.get)
    nothing: Any = None
    return Exporter(Metrics(), cast(Any, sessions), nothing, cast(Any, kernel), nothing), session


def test_inferences_are_those_that_the_kernel_side_tells() -> None:
    """From the prompt to the last token, as in the report: gaps lie between tokens as well."""
    found, _ = exporter()
    nothing: Any = SimpleNamespace(target_of=None, processes=None, attach_functions=None)
    targets = Targets(lambda on_event: nothing, nothing)
    targets._targets[1] = cast(Any, SimpleNamespace(handle=lambda event: None))
    targets.on_inference = found.inference
    for end in (1.01, 1.02, 1.03):
        targets._dispatch(Gap(1, 2, 3, 4, int((end - 0.005) * 1e9), int(end * 1e9), None))
    targets._dispatch(inference(1.0, 1.25))
    targets._dispatch(inference(2.0, 2.5))
    where = {"workload": "attached"}
    assert value(found._ledger, "whyidle_inference_seconds_count", **where) == 2
    assert value(found._ledger, "whyidle_inference_seconds_sum", **where) == 0.75


@pytest.mark.parametrize(("goes_on", "alive", "counted"), [(False, 2, 1), (True, 2, 0), (True, 9, 1)])
def test_the_last_inference_of_a_program_counts_when_nothing_can_follow(
    goes_on: bool, alive: int, counted: int
) -> None:
    """Only the next one would have been its end. What runs on after a cut is told then."""
    run = {"run_start_ns": 10**9, "run_end_ns": 3 * 10**9}
    none = {"run_start_ns": 0, "run_end_ns": 0}
    found, session = exporter(run, run | {"busy": True}, none, alive=(alive,))
    found.ended(session, goes_on)
    assert sum(sum(each.counts) for each in found._ledger.histograms().values()) == counted


def test_a_histogram_is_cumulative() -> None:
    """As Prometheus wants it: each bucket has all below it, the last one all."""
    ledger = Ledger(5, functions=False)
    for seconds in (0.005, 0.01, 0.3, 100.0):
        ledger.inference("w", seconds, 0.0)
    found = samples(ledger)
    counts = {
        dict(labels)["le"]: v
        for (name, labels), v in found.items()
        if name == "whyidle_inference_seconds_bucket"
    }
    assert (counts["0.01"], counts["0.25"], counts["0.5"], counts["60.0"], counts["+Inf"]) == (2, 2, 3, 3, 4)
    assert len(counts) == len(BUCKETS) + 1
    assert value(ledger, "whyidle_inference_seconds_sum", workload="w") == pytest.approx(100.315)


def test_hostile_names_are_escaped() -> None:
    """A unit or a function may be called anything."""
    ledger = Ledger(5, functions=True)
    ledger.update(1, 'a"\\\nb', report(function='}\n# HELP "x'), 0.0)
    assert value(ledger, "whyidle_targets", workload='a"\\\nb') == 1


# --- the endpoint ------------------------------------------------------------------------------------------

Ask = Callable[[bytes], Awaitable[bytes]]


def serving(test: Callable[[Endpoint, Ask, int], Awaitable[None]], body: Callable[[], bytes]) -> None:
    async def run() -> None:
        endpoint = Endpoint(body, "text/plain; version=0.0.4")
        port = await endpoint.listen("127.0.0.1", 0)

        async def ask(data: bytes) -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(data)
            try:
                return await asyncio.wait_for(reader.read(), 20)
            finally:
                writer.close()

        try:
            await test(endpoint, ask, port)
        finally:
            endpoint.close()
            await asyncio.sleep(0)

    asyncio.run(run())


def test_what_it_answers() -> None:
    """The page, and one word for everything else."""

    async def test(endpoint: Endpoint, ask: Ask, port: int) -> None:
        got = await ask(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert got.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\n")
        assert got.endswith(b"\r\n\r\nthe page\n")
        head = await ask(b"HEAD /metrics?x HTTP/1.0\r\n\r\n")
        assert b"Content-Length: 9\r\n" in head
        assert head.endswith(b"\r\n\r\n")
        for request, status in {
            b"GET / HTTP/1.1\r\n\r\n": b"404",
            b"GET /../metrics HTTP/1.1\r\n\r\n": b"404",
            b"POST /metrics HTTP/1.1\r\n\r\n": b"405",
            b"GET /metrics\r\n\r\n": b"400",
            b"\x16\x03\x01\x02\x00\x01\r\n\r\n": b"400",
            b"GET /metrics HTTP/1.1\r\n" + b"a: b\r\n" * MAX_HEAD: b"431",
        }.items():
            assert (await ask(request)).startswith(b"HTTP/1.1 " + status), request[:40]

    serving(test, lambda: b"the page\n")


def test_a_mistake_in_a_page_is_answered(caplog: pytest.LogCaptureFixture) -> None:
    """The scraper gets a 500, the log the reason, the next request its answer."""

    def broken() -> bytes:
        raise ValueError("a mistake")

    async def test(endpoint: Endpoint, ask: Ask, port: int) -> None:
        for _ in range(2):
            assert (await ask(b"GET /metrics HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 500")

    serving(test, broken)
    assert "a mistake" in caplog.text


def test_connections_are_bounded() -> None:
    """Those that read nothing take up their places only; when they go, others come."""

    async def test(endpoint: Endpoint, ask: Ask, port: int) -> None:
        silent = [await asyncio.open_connection("127.0.0.1", port, limit=1) for _ in range(MAX_CONNECTIONS)]
        for _, writer in silent:
            writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
        while sum(one.asked for one in endpoint.connections) < MAX_CONNECTIONS:
            await asyncio.sleep(0)
        got = b""
        with contextlib.suppress(ConnectionError):
            got = await ask(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert got == b""
        assert len(endpoint.connections) == MAX_CONNECTIONS
        for _, writer in silent:
            writer.close()
        while endpoint.connections:
            await asyncio.sleep(0)
        assert (await ask(b"HEAD /metrics HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200")

    page = bytes(8 << 20)  # more than a socket takes
    serving(test, lambda: page)


def test_idle_connections_keep_nobody_out() -> None:
    """However many there are, whether they say nothing or half of it: the oldest of them gives way."""

    async def test(endpoint: Endpoint, ask: Ask, port: int) -> None:
        idle = []
        for number in range(2 * MAX_CONNECTIONS):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /metr"[: number % 2 * 9])
            idle.append(writer)
            await asyncio.sleep(0.001)
            assert len(endpoint.connections) <= MAX_CONNECTIONS
        assert len(endpoint.connections) == MAX_CONNECTIONS
        newest = list(endpoint.connections)[1:]
        assert (await ask(b"GET /metrics HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200")
        assert list(endpoint.connections)[: len(newest)] == newest
        for writer in idle:
            writer.close()

    serving(test, lambda: b"x")


@pytest.mark.parametrize("which", ["HEAD_S", "PATIENCE_S"])
def test_who_reads_may_take_longer_than_who_asks(monkeypatch: pytest.MonkeyPatch, which: str) -> None:
    """Each has his own time: a request that is there ends the first."""
    monkeypatch.setattr(f"whyidle_daemon.metrics.http.{which}", 0.1)

    async def test(endpoint: Endpoint, ask: Ask, port: int) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
        if which == "HEAD_S":
            writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
        while not endpoint.connections:
            await asyncio.sleep(0)
        await asyncio.sleep(0.3)
        assert len(endpoint.connections) == 1
        writer.close()

    page = bytes(8 << 20)
    serving(test, lambda: page)


def test_who_is_slow_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that does not end, and an answer that is not read."""
    monkeypatch.setattr("whyidle_daemon.metrics.http.HEAD_S", 0.05)
    monkeypatch.setattr("whyidle_daemon.metrics.http.PATIENCE_S", 0.05)

    async def test(endpoint: Endpoint, ask: Ask, port: int) -> None:
        for begun in (b"", b"GET /metr", b"GET /metrics HTTP/1.1\r\n\r\n"):
            _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
            writer.write(begun)
            while not endpoint.connections:
                await asyncio.sleep(0)
            while endpoint.connections:
                await asyncio.sleep(0.001)
            writer.close()

    serving(test, lambda: bytes(64 << 20))


@given(st.binary(max_size=200))
def test_any_request(data: bytes) -> None:
    """Any bytes get one answer."""

    async def test(endpoint: Endpoint, ask: Ask, port: int) -> None:
        assert (await ask(data + b"\r\n\r\n")).startswith(b"HTTP/1.1 ")

    serving(test, lambda: b"x")


def test_a_workload_that_goes_on_keeps_its_name_however_rarely_it_is_asked_for() -> None:
    """Nobody scraped for hours: what each has come to since is counted once, under its own name."""
    ledger = Ledger(2, False)
    ledger.update(1, "a", report(1000), 0)
    ledger.update(2, "b", report(10), 0)
    ledger.update(3, "c", report(5), QUIET_S + 1)
    ledger.update(1, "a", report(1100), QUIET_S + 1)
    ledger.update(2, "b", report(11), QUIET_S + 1)
    seconds = [
        value(ledger, "whyidle_state_seconds_total", workload=name, state="network")
        for name in ("a", "b", OTHER)
    ]
    assert seconds == [1100, 11, 5]
