"""Three threads compute in pure Python: two of them always wait for the interpreter's lock.

The truth is all their time off the CPU: reading ``schedstat`` would be one more wait for that lock.
"""

import threading
import time

import truth

EXPECT = {"findings": [("gil_contention", "spin", None)], "needs": ["gil"]}

barrier = threading.Barrier(3)


def spin():
    before = truth.run_delay()
    began = time.monotonic() - time.thread_time()
    barrier.wait()
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        sum(range(100))
    truth.add("gil|lock|runqueue", before + time.monotonic() - time.thread_time() - began)


threads = [threading.Thread(target=spin) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
