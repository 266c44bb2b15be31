"""time.sleep inside a coroutine."""

import asyncio
import time

import truth

EXPECT = {"findings": [("event_loop_blocked", "back_off", None)], "quick": True}


async def back_off():
    with truth.waiting("sleep"):
        time.sleep(0.4)


async def ticker():
    while True:
        await asyncio.sleep(0.01)


async def main():
    ticking = asyncio.create_task(ticker())
    for _ in range(3):
        await back_off()
        await asyncio.sleep(0.02)
    ticking.cancel()


asyncio.run(main())
