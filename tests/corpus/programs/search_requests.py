"""Four searches, one after another, by requests with a time-out, over one session."""

import requests
import truth

EXPECT = {
    "findings": [("blocking_network_call", "search", "http")],
    "also": ["sequential_calls"],
    "modules": ["requests"],
}

session = requests.Session()


def search(number):
    with truth.waiting("network"):
        session.get(f"{truth.HTTP}/hold/350", params={"q": number}, timeout=5)


for number in range(4):
    search(number)
