"""Every turn keeps what it made: memory grows by 4 MB a second."""

import time

import truth

EXPECT = {"findings": [("memory_growth", None, None)]}

end = time.monotonic() + 9
kept = []
while time.monotonic() < end:
    kept.append(bytearray(b"x") * 200_000)
    time.sleep(0.05)
truth.own_cpu()
