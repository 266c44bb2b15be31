"""Four threads take turns at one lock, and do their slow work while they hold it."""

import threading
import time

import truth

EXPECT = {"findings": [("lock_contention", "work", None)], "quick": True}

lock = threading.Lock()


def work():
    for _ in range(10):
        with truth.waiting("lock"):
            lock.acquire()
        with truth.waiting("sleep"):
            time.sleep(0.03)
        lock.release()


threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
