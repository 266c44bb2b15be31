"""Four searches, one after another, by urllib without a time-out."""

import urllib.request

import truth

EXPECT = {
    "findings": [("blocking_network_call", "search", "http")],
    "also": ["sequential_calls"],
    "quick": True,
}


def search(number):
    with truth.waiting("network"):
        urllib.request.urlopen(f"{truth.HTTP}/hold/350?q={number}").read()


for number in range(4):
    search(number)
