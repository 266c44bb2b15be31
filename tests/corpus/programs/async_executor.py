"""Decoy: synchronous calls in an executor, gathered; the loop stays free."""

import asyncio

import requests
import truth

EXPECT = {"findings": [], "loops": [("main", "future", None)], "modules": ["requests"]}


def fetch():
    with truth.waiting("network"):
        requests.get(f"{truth.HTTP}/hold/600", timeout=5)


async def main():
    loop = asyncio.get_running_loop()
    await asyncio.gather(*(loop.run_in_executor(None, fetch) for _ in range(4)))


asyncio.run(main())
