"""Touches a mapped file that is not in memory: waits outside any system call."""

import mmap
import os
from pathlib import Path

import truth

EXPECT = {"findings": [], "also": ["blocking_disk"]}

PAGE = 4096
PAGES = 4096  # of which 256 are touched: where each of the waits ends is known to some 20 µs


def load():
    path = Path(os.environ["WHYIDLE_FOLDER"], "weights")
    with path.open("wb+") as file:
        for _ in range(PAGES // 256):
            file.write(os.urandom(256 * PAGE))
        with truth.waiting("disk"):
            file.flush()
            os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        weights = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        weights.madvise(mmap.MADV_RANDOM)
        with truth.waiting("page_fault|runqueue"):
            sum(weights[page * PAGE] for page in range(0, PAGES, 16))
    truth.add("page_fault|runqueue", truth.run_delay())  # where a short wait ends is not known


truth.on_its_own(load)
