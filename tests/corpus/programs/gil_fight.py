"""Three threads compute in pure Python: two of them always wait for the interpreter's lock.

The barrier is an ordinary lock, and the truth the sum of both: nobody can tell by the clock which it was.
"""

import threading
import time

import truth

EXPECT = {"findings": [("gil_contention", "spin", None)], "needs": ["gil"]}


def spin():
    with truth.waiting("gil|lock"):
        barrier.wait()
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            sum(range(100))


barrier = threading.Barrier(3)
threads = [threading.Thread(target=spin) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
