"""What the daemon's memory does once it has started."""

from __future__ import annotations

import os
import subprocess
import sys

# As many strings as some hours of short-lived processes leave in the table, one after the other.
CHURN = """
import sys
import whyidle_daemon.main
from whyidle_daemon import heap

def anonymous_kib():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon:"))

heap.keep_small()
heap.fill_names()
heap.started()
before, most = anonymous_kib(), 0
for block in range(100):
    for number in range(1000):
        sys.intern(f"part {block} {number}")
    most = max(most, anonymous_kib())
print(most - before)
"""


def test_the_table_of_interned_strings_has_its_size_from_the_start() -> None:
    """What is interned and let go afterwards leaves nothing: on CPython 3.11 it was 532 KiB, once."""
    environment = {**os.environ, "PYTHONMALLOC": "malloc"}  # as the service's
    done = subprocess.run(
        [sys.executable, "-c", CHURN], env=environment, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 128
