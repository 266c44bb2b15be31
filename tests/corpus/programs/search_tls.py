"""Four searches over TLS."""

import ssl
import urllib.request

import truth

EXPECT = {
    "findings": [("blocking_network_call", "search", "tls")],
    "also": ["sequential_calls"],
}

context = ssl._create_unverified_context()


def search():
    with truth.waiting("network"):
        urllib.request.urlopen(f"https://127.0.0.1:{truth.PORTS['tls']}/hold/350", context=context).read()


for _ in range(4):
    search()
