"""Two functions, two servers: two findings, each with its own function and peer."""

import urllib.request

import truth

EXPECT = {
    "findings": [
        ("blocking_network_call", "search_web", "http"),
        ("blocking_network_call", "search_papers", "other"),
    ],
    "also": ["sequential_calls"],
}


def search_web():
    with truth.waiting("network"):
        urllib.request.urlopen(f"{truth.HTTP}/hold/300").read()


def search_papers():
    with truth.waiting("network"):
        urllib.request.urlopen(f"{truth.OTHER}/hold/400").read()


for _ in range(4):
    search_web()
    search_papers()
