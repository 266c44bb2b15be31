"""Decoy: the main thread waits for a thread that computes all the while."""

import threading

import truth

EXPECT = {"findings": []}


def work():
    truth.cpu_for(1.0)
    truth.own_cpu()


worker = threading.Thread(target=work)
worker.start()
with truth.waiting("lock"):
    worker.join()
