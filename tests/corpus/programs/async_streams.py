"""Decoy: gathered searches over asyncio's own streams."""

import asyncio

import truth

EXPECT = {"findings": [], "loops": [("search", "socket", "http")]}


async def search():
    reader, writer = await asyncio.open_connection("127.0.0.1", truth.PORTS["http"])
    writer.write(b"GET /hold/600 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    await reader.read()
    writer.close()


async def main():
    with truth.waiting("event_loop|network"):
        await asyncio.gather(*(search() for _ in range(6)))


asyncio.run(main())
