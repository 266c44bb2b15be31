"""Decoy: workers of a pool with nothing to do."""

import queue
import threading
import time

import truth

EXPECT = {"findings": []}

jobs = queue.Queue()


def work():
    with truth.waiting("lock"):
        jobs.get()


workers = [threading.Thread(target=work) for _ in range(3)]
for worker in workers:
    worker.start()
with truth.waiting("sleep"):
    time.sleep(1.2)
for _ in workers:
    jobs.put(None)
