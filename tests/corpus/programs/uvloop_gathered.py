"""Decoy: gathered searches on uvloop."""

import asyncio

import httpx
import truth
import uvloop

EXPECT = {"findings": [], "loops": [("search", "socket", "http")], "modules": ["httpx", "uvloop"]}


async def search(client):
    await client.get(f"{truth.HTTP}/hold/600")


async def main():
    async with httpx.AsyncClient() as client:
        with truth.waiting("event_loop|network"):
            await asyncio.gather(*(search(client) for _ in range(6)))


uvloop.run(main())
