"""Four searches over IPv6."""

import urllib.request

import truth

EXPECT = {
    "findings": [("blocking_network_call", "search", "http6")],
    "also": ["sequential_calls"],
}


def search():
    with truth.waiting("network"):
        urllib.request.urlopen(f"http://[::1]:{truth.PORTS['http6']}/hold/350").read()


for _ in range(4):
    search()
