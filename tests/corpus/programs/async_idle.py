"""Decoy: a loop with nothing to do."""

import asyncio

import truth

EXPECT = {"findings": [], "loops": [("main", "timer", None)]}


async def main():
    with truth.waiting("event_loop"):
        await asyncio.sleep(1.2)


asyncio.run(main())
