"""Saves its state after every step and waits until the disk has it.

By the program's own clock a wait of 50 microseconds is not told from its waking-up: no truth of seconds.
"""

import os
from pathlib import Path

import truth

EXPECT = {"needs": ["stacks_of_short_waits"], "findings": [("blocking_disk", "save", None)]}

STATE = bytes(1 << 20)


def save(file):
    began = truth.asleep_clock()
    file.write(STATE)
    file.flush()
    os.fsync(file.fileno())
    return truth.asleep_clock() - began


path = Path(os.environ["WHYIDLE_FOLDER"], "state")
with path.open("wb") as file:
    waited = 0.0
    while waited < 1.0:
        file.seek(0)
        waited += save(file)
