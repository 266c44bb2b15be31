"""Searches and pages asked for together: the requests and answers of one after another, under one loop."""

import asyncio
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from whyidle_agent import pages
from whyidle_agent.stats import Stats
from whyidle_agent.tools import (
    MAX_RESPONSE_BYTES,
    RESULTS_SHOWN,
    Observation,
    failed_fetch,
    failed_search,
    httpx_options,
    late_fetch,
    late_search,
    parse_results,
    search_request,
)

PER_HOST = 16  # requests in flight to one server


class AsyncWeb:
    """One event loop and one connection pool for the length of a `with` block."""

    def __init__(self, search_url: str, timeout_s: float, per_host: int = PER_HOST) -> None:
        """Search at `search_url`; `timeout_s` bounds each request, waiting for its turn excluded.

        `per_host`: at most so many requests to one server are in flight.
        """
        self._search_url = search_url
        self._timeout_s = timeout_s
        self._per_host = per_host
        self._runner = asyncio.Runner()
        self._turns: dict[str, asyncio.Semaphore] = {}
        self._client: httpx.AsyncClient | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._client is not None:
            self._runner.run(self._client.aclose())
        self._runner.close()

    def search(self, queries: Sequence[str], stats: Stats, step: int) -> list[tuple[Observation, float]]:
        """Ask all `queries` together; gives each one's observation and seconds, in the order of `queries`.

        Ctrl-C cancels what is in flight and raises KeyboardInterrupt.
        """

        return self._runner.run(self._search_all(queries, stats, step))

    def read(self, urls: Sequence[str], stats: Stats, step: int) -> list[tuple[Observation, float]]:
        """Read all pages together, as `search` does."""
        return self._runner.run(
            _all([self._in_turn("read_page", url, stats, step, self._page, url) for url in urls])
        )

    async def _search_all(
        self, queries: Sequence[str], stats: Stats, step: int
    ) -> list[tuple[Observation, float]]:
        if self._client is None:
            limits = httpx.Limits(max_connections=self._per_host, max_keepalive_connections=self._per_host)
            options = httpx_options(self._search_url, self._timeout_s)
            self._client = httpx.AsyncClient(**options, limits=limits)
        works = []
        for number, query in enumerate(queries):
            first = 1 + number * RESULTS_SHOWN
            asked = self._in_turn(
                "search_web", self._search_url, stats, step, self._search, self._client, query, first
            )
            works.append(asked)
        return await _all(works)

    async def _in_turn(
        self, tool: str, url: str, stats: Stats, step: int, work: Callable[..., Any], *arguments: Any
    ) -> tuple[Observation, float]:
        async with self._turns.setdefault(_host(url), asyncio.Semaphore(self._per_host)):
            with stats.calling(tool, step) as account:
                observation = await work(*arguments)
                account.ok = observation.ok
            return observation, account.duration_s

    async def _search(self, client: httpx.AsyncClient, query: str, first: int) -> Observation:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._fetch(client, query, first)
        except TimeoutError:
            return late_search(self._timeout_s)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return failed_search(error, self._timeout_s)

    async def _fetch(self, client: httpx.AsyncClient, query: str, first: int) -> Observation:
        body = bytearray()
        async with client.stream("GET", **search_request(query, self._search_url)) as response:
            if response.status_code != httpx.codes.OK:
                return Observation(f"the search server answered HTTP {response.status_code}", ok=False)
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MAX_RESPONSE_BYTES:
                    return Observation("the search server's answer is larger than 1 MiB", ok=False)
        return parse_results(bytes(body), first)

    async def _page(self, url: str) -> Observation:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._read_page(url)
        except TimeoutError:
            return late_fetch("the page", self._timeout_s)
        except pages.RefusedError as error:
            return pages.refused(error)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
            return failed_fetch("the page", error, self._timeout_s)

    async def _read_page(self, url: str) -> Observation:
        loop = asyncio.get_running_loop()
        for _ in range(pages.MAX_REDIRECTS + 1):
            place = pages.place_of(url, self._search_url)
            found = await loop.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
            request, body = pages.request_of(place, found), bytearray()
            async with (
                httpx.AsyncClient(**pages.client_options(url, self._timeout_s)) as client,
                client.stream(**request) as response,
            ):
                onward = pages.redirected(response, url)
                if onward is None:
                    async for chunk in response.aiter_raw():
                        body += chunk
                        if len(body) >= pages.MAX_PAGE_BYTES:
                            break
                    return pages.text_of(response, bytes(body[: pages.MAX_PAGE_BYTES]))
                url = onward
        return pages.refused(pages.RefusedError("it redirects without end"))


def _host(url: str) -> str:
    try:
        return urlsplit(url).netloc
    except ValueError:
        return ""  # no address: that will be said of it in its turn


async def _all(works: Sequence[Coroutine[Any, Any, Any]]) -> list[tuple[Observation, float]]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work) for work in works]
    return [task.result() for task in tasks]
