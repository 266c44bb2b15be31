"""Decoy: the main thread waits for a thread that computes all the while."""

import threading

import truth

EXPECT = {"findings": []}


def work():
    truth.cpu_for(1.0)
    truth.own_cpu()


worker = threading.Thread(target=work)
with truth.waiting("lock|gil"):  # a thread's start is a wait for it, too
    worker.start()
    worker.join()
