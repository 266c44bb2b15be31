"""Decoy: memory grows and is given back, again and again."""

import time

import truth

EXPECT = {"findings": []}

end = time.monotonic() + 9
kept = []
while time.monotonic() < end:
    kept.append(bytearray(b"x") * 1_000_000)
    if len(kept) == 20:
        kept.clear()
    time.sleep(0.05)
truth.own_cpu()
