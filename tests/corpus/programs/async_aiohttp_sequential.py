"""The same by aiohttp."""

import asyncio

import aiohttp
import truth

EXPECT = {
    "findings": [("sequential_calls", "search", "http")],
    "loops": [("search", "socket", "http")],
    "modules": ["aiohttp"],
}


async def search(session, number):
    async with session.get(f"{truth.HTTP}/hold/350", params={"q": number}) as answer:
        await answer.read()


async def main():
    async with aiohttp.ClientSession() as session:
        with truth.waiting("event_loop|network"):
            for number in range(4):
                await search(session, number)


asyncio.run(main())
