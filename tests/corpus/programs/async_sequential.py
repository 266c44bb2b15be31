"""Independent searches awaited one after another: the loop is not blocked, the calls are in a row."""

import asyncio

import httpx
import truth

EXPECT = {
    "findings": [("sequential_calls", "search", "http")],
    "loops": [("search", "socket", "http")],
    "modules": ["httpx"],
}


async def search(client, number):
    await client.get(f"{truth.HTTP}/hold/350", params={"q": number})


async def main():
    async with httpx.AsyncClient() as client:
        with truth.waiting("event_loop|network"):
            for number in range(4):
                await search(client, number)


asyncio.run(main())
