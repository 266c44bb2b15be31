"""Searches together: the same answers as one after the other, within limits, cancelled when asked."""

import io
import json
import os
import signal
import threading
from collections.abc import Callable
from itertools import pairwise
from socketserver import StreamRequestHandler

import pytest
from agent_fakes import OK, raw_server, silence

from whyidle_agent.async_web import AsyncWeb
from whyidle_agent.slow_search import Behaviour, SearchServer
from whyidle_agent.stats import Stats
from whyidle_agent.tools import search_web

QUERIES = ["gpu idle", "nothing here", "memory", "kernel scheduler", "gpu idle"]


def flood(handler: StreamRequestHandler) -> None:
    handler.wfile.write(OK)
    for _ in range(10):
        handler.wfile.write(b"<p>" * (1 << 18))


def test_the_answers_are_those_of_the_synchronous_tool() -> None:
    """In the order of the queries, each the same observation."""
    with SearchServer("127.0.0.1", 0, Behaviour(0.01, jitter_s=0.05)) as server:
        one_by_one = [search_web(q, server.url, 5, 1 + 3 * n) for n, q in enumerate(QUERIES)]
        with AsyncWeb(server.url, 5) as search:
            together = search.search(QUERIES, Stats(), 1)
    assert [observation for observation, _ in together] == one_by_one


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n",
        OK + b'{"results": "\xff\xfe"}',
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}",
        flood,
        silence,
    ],
)
def test_hostile_answers_are_the_same_observations(
    reply: bytes | Callable[[StreamRequestHandler], None],
) -> None:
    """A server that fails, floods or hangs fails the search in the same words either way."""
    with raw_server(reply) as url, AsyncWeb(url, 0.3) as search:
        expected = search_web("q", url, 0.3)
        [(observation, _)] = search.search(["q"], Stats(), 1)
    assert not expected.ok
    assert observation == expected


@pytest.mark.parametrize(
    ("misdeed", "says"),
    [
        ({"error_rate": 1.0}, "HTTP 503"),
        ({"hang_rate": 1.0}, "no answer within 0.5 s"),
        ({"reset_rate": 1.0}, "the search failed"),
        ({"flood_rate": 1.0}, "larger than 1 MiB"),
        ({"garbage_rate": 1.0}, "not JSON"),
    ],
)
def test_what_the_local_server_can_do_is_survived(misdeed: dict[str, float], says: str) -> None:
    """Errors, hangs, resets, 10 MB of HTML, bytes that are no UTF-8: a failed search in the same words."""
    timeout_s = 0.5 if "hang_rate" in misdeed else 20
    with SearchServer("127.0.0.1", 0, Behaviour(0.01, **misdeed)) as server:
        alone = search_web("gpu idle", server.url, timeout_s)
        with AsyncWeb(server.url, timeout_s) as web:
            together = web.search(["gpu idle", "queue"], Stats(), 1)
    assert not alone.ok
    assert says in alone.text
    assert all(not observation.ok and says in observation.text for observation, _ in together)


@pytest.mark.parametrize("per_host", [1, 2, 5])
def test_at_most_so_many_are_in_flight(per_host: int) -> None:
    """The server's own log never shows more requests at once than allowed, and shows that many."""
    log, stats = io.StringIO(), Stats()
    with (
        SearchServer("127.0.0.1", 0, Behaviour(0.2), log) as server,
        AsyncWeb(server.url, 5, per_host=per_host) as search,
    ):
        search.search(QUERIES, stats, 1)
    held = [json.loads(line) for line in log.getvalue().splitlines()]
    edges = sorted([(r["received_at"], 1) for r in held] + [(r["answered_at"], -1) for r in held])
    running, most = 0, 0
    for _, change in edges:
        running += change
        most = max(most, running)
    assert most == per_host
    starts = [call.start for call in stats.tool_calls]
    assert all(first <= second for first, second in pairwise(starts))
    # Time shared by several calls counts once.
    assert stats.tools_s <= sum(call.duration_s for call in stats.tool_calls)


def test_ctrl_c_cancels_what_is_in_flight() -> None:
    """KeyboardInterrupt comes out, each call stays in the account as cut short."""
    asked = threading.Semaphore(0)

    def announce_and_hang(handler: StreamRequestHandler) -> None:
        asked.release()
        handler.rfile.read(1)

    def interrupt() -> None:
        asked.acquire()
        os.kill(os.getpid(), signal.SIGINT)

    stats = Stats()
    with raw_server(announce_and_hang) as url, AsyncWeb(url, 60) as search:
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            search.search(["a", "b"], stats, 1)
        thread.join()
        assert [call.ok for call in stats.tool_calls] == [None, None]
