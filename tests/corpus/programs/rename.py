"""A thread whose name is a trap for terminals searches."""

import ctypes
import urllib.request

import truth

EXPECT = {
    "findings": [("blocking_network_call", "search", "http")],
    "also": ["sequential_calls"],
}

PR_SET_NAME = 15
ctypes.CDLL(None).prctl(PR_SET_NAME, b"\x1b[2J\n\xff\x07{}%s", 0, 0, 0)


def search():
    with truth.waiting("network"):
        urllib.request.urlopen(f"{truth.HTTP}/hold/400").read()


for _ in range(3):
    search()
