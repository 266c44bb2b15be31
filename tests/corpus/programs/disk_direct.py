"""Writes past the page cache to a disk of 16 MB/s, 4 MB at a time: few, long waits for the disk."""

import mmap
import os
from pathlib import Path

import truth

EXPECT = {"needs": ["stacks_of_short_waits"], "findings": [("blocking_disk", "dump", None)], "quick": True}

STATE = mmap.mmap(-1, 4 << 20)  # aligned, as O_DIRECT wants it
STATE.write(b"x" * len(STATE))


def dump(descriptor):
    with truth.waiting("disk|runqueue") as wait:
        os.pwrite(descriptor, STATE, 0)
    return wait.seconds


path = Path(os.environ["WHYIDLE_FOLDER"], "dump")
with truth.waiting("disk|runqueue"):  # making a file may wait for the file system's journal
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_DIRECT)
with truth.disk_quota(path, 16 << 20):
    waited = 0.0
    while waited < 1.0:
        waited += dump(descriptor)
truth.add("disk|runqueue", truth.run_delay())  # where a short wait ends is not known
