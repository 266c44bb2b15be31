"""A synchronous client inside a coroutine: the whole loop stands still."""

import asyncio

import requests
import truth

# The same wait is a network call as well: either name is true, one of them is the point.
EXPECT = {
    "findings": [("event_loop_blocked", "fetch", "http")],
    "also": ["blocking_network_call"],
    "modules": ["requests"],
}


async def fetch():
    with truth.waiting("network"):
        requests.get(f"{truth.HTTP}/hold/350", timeout=5)


async def ticker():
    while True:
        await asyncio.sleep(0.01)


async def main():
    ticking = asyncio.create_task(ticker())
    await asyncio.gather(*(fetch() for _ in range(4)))
    ticking.cancel()


asyncio.run(main())
