"""A synchronous client inside a coroutine on uvloop."""

import asyncio

import requests
import truth
import uvloop

EXPECT = {
    "findings": [("event_loop_blocked", "fetch", "http")],
    "also": ["blocking_network_call"],
    "modules": ["uvloop", "requests"],
}


async def fetch():
    with truth.waiting("network"):
        requests.get(f"{truth.HTTP}/hold/350", timeout=5)


async def main():
    await asyncio.gather(*(fetch() for _ in range(4)))


uvloop.run(main())
