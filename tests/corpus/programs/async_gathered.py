"""Decoy: searches of one step gathered, as they should be."""

import asyncio

import httpx
import truth

EXPECT = {"findings": [], "loops": [("search", "socket", "http")], "modules": ["httpx"], "quick": True}


async def search(client, number):
    await client.get(f"{truth.HTTP}/hold/600", params={"q": number})


async def main():
    async with httpx.AsyncClient() as client:
        with truth.waiting("event_loop|network"):
            await asyncio.gather(*(search(client, number) for number in range(6)))


asyncio.run(main())
