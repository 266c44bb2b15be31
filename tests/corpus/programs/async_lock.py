"""A coroutine takes a lock that a thread holds."""

import asyncio
import threading
import time

import truth

EXPECT = {"findings": [("event_loop_blocked", "save", None)], "also": ["lock_contention"]}

lock = threading.Lock()
held = threading.Event()


def hold():
    with lock:
        held.set()
        time.sleep(1.0)


async def save():
    with truth.waiting("lock"):
        lock.acquire()
    lock.release()


async def main():
    ticking = asyncio.create_task(asyncio.sleep(5))
    await asyncio.sleep(0)
    await save()
    ticking.cancel()


threading.Thread(target=hold).start()
held.wait()
asyncio.run(main())
