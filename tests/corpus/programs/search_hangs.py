"""A server that never answers; a time-out ends it."""

import urllib.request

import truth

EXPECT = {"findings": [("blocking_network_call", "search", "http")]}


def search():
    try:
        with truth.waiting("network"):
            urllib.request.urlopen(f"{truth.HTTP}/hang", timeout=1.2)
    except TimeoutError:
        pass


search()
