"""Decoy: memory grows while the program warms up, and then no more."""

import time

import truth

EXPECT = {"findings": []}

end = time.monotonic() + 9
kept = []
while time.monotonic() < end:
    if len(kept) < 40:
        kept.append(bytearray(b"x") * 1_000_000)
    time.sleep(0.05)
truth.own_cpu()
