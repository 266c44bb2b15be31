"""Starts two hundred short programs, one after another."""

import os

import truth

EXPECT = {"findings": [], "also": ["blocking_subprocess"]}

for _ in range(200):
    with truth.waiting("child"):
        os.waitpid(os.posix_spawn("/bin/true", ["true"], os.environ), 0)
