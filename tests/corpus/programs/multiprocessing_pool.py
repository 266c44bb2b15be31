"""Decoy: a pool of processes computes, and the program waits for the results."""

import multiprocessing
import os

import truth

EXPECT = {"findings": []}


def work(_):
    truth.cpu_for(0.4)
    return os.getpid(), truth.run_delay()


if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for pid, delay in pool.map(work, range(4)):
            truth.delayed(pid, delay)
