"""The search server: its log against what its clients saw."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from whyidle_agent.corpus import search
from whyidle_agent.search_server import main
from whyidle_agent.slow_search import Behaviour, SearchServer, fate


def ask(client: httpx.Client, server: SearchServer, query: str) -> tuple[float, float, httpx.Response]:
    """Return when the request was sent, when the answer was read, and the answer."""
    sent = time.monotonic()
    response = client.get(f"{server.url}/search", params={"q": query, "format": "json"})
    return sent, time.monotonic(), response


def records(log: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "gave up waiting"
        time.sleep(0.01)


def test_the_log_agrees_with_the_client() -> None:
    """Each request is held for the latency at least, and within what its client saw of it."""
    log = io.StringIO()
    seen = []
    with SearchServer("127.0.0.1", 0, Behaviour(latency_s=0.05), log) as server, httpx.Client() as client:
        for query in ("gpu idle", "no such thing at all zzz", "queue"):
            seen.append(ask(client, server, query))
    lines = records(log)
    assert [line["query"] for line in lines] == ["gpu idle", "no such thing at all zzz", "queue"]
    for (sent, read, response), line in zip(seen, lines, strict=True):
        assert response.json() == {"query": line["query"], "results": search(line["query"], server.url)}
        assert line["outcome"] == "ok"
        assert line["held_s"] == pytest.approx(line["answered_at"] - line["received_at"])
        # One clock for every process: the request was received after it was sent. The client can have read
        # the answer before the server looks at the clock, so only the hold itself has an end in common.
        assert sent <= line["received_at"]
        assert line["held_s"] >= 0.05
        assert read >= line["received_at"] + 0.05


def test_connections_are_kept_alive() -> None:
    """Several requests of one client use one connection."""
    with SearchServer("127.0.0.1", 0, Behaviour(latency_s=0)) as server:
        address = server.server_address[:2]
        with (
            socket.create_connection((str(address[0]), int(address[1]))) as client,
            client.makefile("rb") as answers,
        ):
            for _ in range(3):
                client.sendall(b"GET /search?q=gpu HTTP/1.1\r\nHost: x\r\n\r\n")
                head = b"".join(iter(answers.readline, b"\r\n"))
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                assert json.loads(answers.read(length))["query"] == "gpu"


def test_concurrent_requests_are_held_together() -> None:
    """Requests that arrive together overlap: one does not wait for the other's latency."""
    log = io.StringIO()
    behaviour = Behaviour(latency_s=0.5)
    with (
        SearchServer("127.0.0.1", 0, behaviour, log) as server,
        httpx.Client() as client,
        ThreadPoolExecutor(4) as pool,
    ):
        list(pool.map(lambda number: ask(client, server, f"gpu {number}"), range(4)))
    lines = records(log)
    assert len(lines) == 4
    assert max(line["received_at"] for line in lines) < min(line["answered_at"] for line in lines)


def test_fate_depends_on_seed_query_and_occurrence_alone() -> None:
    """Jitter, errors and hangs repeat with the seed and come at about the rates asked for."""
    behaviour = Behaviour(latency_s=1, jitter_s=2, error_rate=0.25, hang_rate=0.5, seed=7)
    fates = [fate(behaviour, f"query {number}", 0) for number in range(2000)]
    assert fates == [fate(behaviour, f"query {number}", 0) for number in range(2000)]
    assert all(1 <= one.hold_s < 3 for one in fates)
    outcomes = Counter(one.outcome for one in fates)
    assert outcomes["hung"] == pytest.approx(1000, abs=100)
    assert outcomes["error"] == pytest.approx(500 / 2, abs=100)  # half of those hang instead
    assert fate(behaviour, "query", 0) != fate(behaviour, "query", 1)
    assert fate(Behaviour(jitter_s=1, seed=1), "q", 0) != fate(Behaviour(jitter_s=1, seed=2), "q", 0)


def test_simulated_errors_are_held_and_logged() -> None:
    """A simulated failure is a 503 after the latency, and the log calls it an error."""
    log = io.StringIO()
    with SearchServer("127.0.0.1", 0, Behaviour(0.02, error_rate=1), log) as server, httpx.Client() as client:
        assert ask(client, server, "gpu")[2].status_code == 503
    (line,) = records(log)
    assert line["outcome"] == "error"
    assert line["held_s"] >= 0.02


def test_a_hang_ends_when_the_client_gives_up() -> None:
    """A hanging request is logged without an answer once its client has gone."""
    log = io.StringIO()
    with (
        SearchServer("127.0.0.1", 0, Behaviour(0, hang_rate=1), log) as server,
        httpx.Client(timeout=0.1) as client,
    ):
        with pytest.raises(httpx.ReadTimeout):
            ask(client, server, "gpu")
        wait_until(lambda: bool(log.getvalue()))
    (line,) = records(log)
    assert line["outcome"] == "hung"
    assert line["answered_at"] is None
    assert line["held_s"] > 0


def test_stopping_lets_go_of_held_requests() -> None:
    """Leaving the server ends requests in flight and logs them, however long their latency."""
    log = io.StringIO()
    failures: list[Exception] = []

    def client(url: str) -> None:
        try:
            httpx.get(f"{url}/search?q=gpu", timeout=60)
        except httpx.HTTPError as error:
            failures.append(error)

    with SearchServer("127.0.0.1", 0, Behaviour(latency_s=3600), log) as server:
        thread = threading.Thread(target=client, args=(server.url,))
        thread.start()
        wait_until(lambda: server._active == 1)
    thread.join()
    assert len(failures) == 1
    (line,) = records(log)
    assert line["outcome"] == "dropped"
    assert line["answered_at"] is None


@pytest.mark.parametrize(
    ("path", "status"),
    [("/health", 200), ("/", 404), ("/search", 400), ("/search?q=%20", 400), ("/search?q=%ff%00", 200)],
)
def test_other_requests_get_an_answer_at_once(path: str, status: int) -> None:
    """Every path has a status, and only searches with a query are logged."""
    log = io.StringIO()
    with SearchServer("127.0.0.1", 0, Behaviour(latency_s=0), log) as server:
        assert httpx.get(server.url + path).status_code == status
    assert len(records(log)) == (1 if path.endswith("%00") else 0)


def test_garbage_is_answered_and_survived(capsys: pytest.CaptureFixture[str]) -> None:
    """Bytes that are not HTTP cost the server their connection and nothing more."""
    with SearchServer("127.0.0.1", 0, Behaviour(latency_s=0)) as server:
        for garbage in (b"\x16\x03\x01\x00\xff\r\n\r\n", b"GET\r\n\r\n", b"G" * 100_000, b""):
            with socket.create_connection((server.server_name, server.server_port)) as client:
                client.sendall(garbage)
        assert httpx.get(f"{server.url}/health").status_code == 200
    assert capsys.readouterr().err == ""


def test_ipv6() -> None:
    """The server listens on ::1 and says so in its address."""
    if not Path("/proc/net/if_inet6").exists():
        pytest.skip("this kernel has no IPv6")
    with SearchServer("::1", 0, Behaviour(latency_s=0)) as server:
        assert server.url.startswith("http://[::1]:")
        assert httpx.get(f"{server.url}/search?q=gpu", trust_env=False).status_code == 200


def test_a_taken_port_is_one_clear_error(capsys: pytest.CaptureFixture[str]) -> None:
    """A port in use ends with status 1, what happened and what to do."""
    with SearchServer("127.0.0.1", 0, Behaviour()) as server:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        try:
            assert main(["--port", str(server.server_port)]) == 1
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert capsys.readouterr().err.splitlines() == [
        f"whyidle-search: cannot listen on 127.0.0.1 port {server.server_port}: Address already in use",
        "  choose another --port (0 takes any) or --host",
    ]


@pytest.mark.parametrize(
    "arguments", [["--latency", "-1"], ["--latency", "nan"], ["--port", "70000"], ["--hang-rate", "2"]]
)
def test_bad_numbers_are_usage_errors(arguments: list[str]) -> None:
    """A number out of range is refused with status 2."""
    with pytest.raises(SystemExit) as refusal:
        main(arguments)
    assert refusal.value.code == 2


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_the_command_starts_and_stops_cleanly(tmp_path: Path, stop: signal.Signals) -> None:
    """The port file appears when it answers; a signal ends it with status 0 and removes the file."""
    port_file, log = tmp_path / "port", tmp_path / "log"
    command = [sys.executable, "-m", "whyidle_agent.search_server", "--latency", "0.01"]
    with subprocess.Popen(
        [*command, "--port-file", port_file, "--requests-log", log],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        wait_until(lambda: port_file.exists() or process.poll() is not None)
        url = f"http://127.0.0.1:{int(port_file.read_text())}"
        assert httpx.get(f"{url}/search?q=gpu").status_code == 200
        process.send_signal(stop)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert err == b""
    assert url.encode() in out
    assert not port_file.exists()
    assert json.loads(log.read_text())["query"] == "gpu"
