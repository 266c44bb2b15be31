"""Searches issued together: the same requests and the same answers as `tools.search_web`, under one loop."""

import asyncio
from collections.abc import Sequence
from typing import Self

import httpx

from whyidle_agent.stats import Stats
from whyidle_agent.tools import (
    MAX_RESPONSE_BYTES,
    Observation,
    failed_search,
    httpx_options,
    late_search,
    parse_results,
    search_request,
)

PER_HOST = 16  # requests in flight to one server


class AsyncSearch:
    """One event loop and one connection pool for the length of a `with` block."""

    def __init__(self, base_url: str, timeout_s: float, per_host: int = PER_HOST) -> None:
        """Search at `base_url`; `timeout_s` bounds each search from its start, waiting for its turn excluded.

        `per_host`: at most so many searches are in flight.
        """
        self._base_url = base_url
        self._timeout_s = timeout_s
        self._per_host = per_host
        self._runner = asyncio.Runner()
        self._turn = asyncio.Semaphore(per_host)
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
        return self._runner.run(self._together(queries, stats, step))

    async def _together(
        self, queries: Sequence[str], stats: Stats, step: int
    ) -> list[tuple[Observation, float]]:
        if self._client is None:
            limits = httpx.Limits(max_connections=self._per_host, max_keepalive_connections=self._per_host)
            self._client = httpx.AsyncClient(**httpx_options(self._base_url, self._timeout_s), limits=limits)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._one(self._client, query, stats, step)) for query in queries]
        return [task.result() for task in tasks]

    async def _one(
        self, client: httpx.AsyncClient, query: str, stats: Stats, step: int
    ) -> tuple[Observation, float]:
        async with self._turn:
            with stats.calling("search_web", step) as account:
                try:
                    async with asyncio.timeout(self._timeout_s):
                        observation = await self._fetch(client, query)
                except TimeoutError:
                    observation = late_search(self._timeout_s)
                except (httpx.HTTPError, httpx.InvalidURL) as error:
                    observation = failed_search(error, self._timeout_s)
                account.ok = observation.ok
            return observation, account.duration_s

    async def _fetch(self, client: httpx.AsyncClient, query: str) -> Observation:
        body = bytearray()
        async with client.stream("GET", **search_request(query, self._base_url)) as response:
            if response.status_code != httpx.codes.OK:
                return Observation(f"the search server answered HTTP {response.status_code}", ok=False)
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MAX_RESPONSE_BYTES:
                    return Observation("the search server's answer is larger than 1 MiB", ok=False)
        return parse_results(bytes(body))
