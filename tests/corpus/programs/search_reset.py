"""A server that resets the connection after a while; the program tries again.

No call is independent of the one before: ``sequential_calls`` would be wrong.
"""

import urllib.request

import truth

EXPECT = {"findings": [("blocking_network_call", "search", "http")]}


def search():
    try:
        with truth.waiting("network"):
            urllib.request.urlopen(f"{truth.HTTP}/reset/350")
    except ConnectionResetError:
        return False
    return True


assert not any(search() for _ in range(4))
