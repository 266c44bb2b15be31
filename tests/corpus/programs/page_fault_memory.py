"""Decoy: touches half a gigabyte of new memory, which is work, not waiting."""

import mmap

import truth

EXPECT = {"findings": []}

SIZE = 256 << 20
for _ in range(2):
    with mmap.mmap(-1, SIZE) as memory:
        for at in range(0, SIZE, 4096):
            memory[at] = 1
truth.own_cpu()
