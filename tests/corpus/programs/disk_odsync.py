"""A file opened with O_DSYNC: thousands of short waits for the disk, and no want of CPUs.

By the program's own clock a wait of 50 microseconds is not told from its waking-up: no truth of seconds.
"""

import os
from pathlib import Path

import truth

EXPECT = {"needs": ["stacks_of_short_waits"], "findings": [("blocking_disk", "log", None)]}


def log(descriptor):
    began = truth.asleep_clock()
    os.write(descriptor, b"x" * 512)
    return truth.asleep_clock() - began


path = Path(os.environ["WHYIDLE_FOLDER"], "log")
descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_DSYNC)
waited = 0.0
while waited < 1.0:
    waited += log(descriptor)
