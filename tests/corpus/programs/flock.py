"""Waits for a file lock that a child holds."""

import fcntl
import os
import time
from pathlib import Path

import truth

EXPECT = {"findings": [], "also": ["lock_contention"]}

path = Path(os.environ["WHYIDLE_FOLDER"], "lock")
ready, tell = os.pipe()
child = os.fork()
if child == 0:
    held = path.open("w")
    fcntl.flock(held, fcntl.LOCK_EX)
    os.write(tell, b"x")
    time.sleep(1.0)
    os._exit(0)
os.read(ready, 1)
with path.open("w") as file, truth.waiting("lock"):
    fcntl.flock(file, fcntl.LOCK_EX)
os.waitpid(child, 0)
