"""Four searches, one after another, by httpx's synchronous client."""

import httpx
import truth

EXPECT = {
    "findings": [("blocking_network_call", "search", "http")],
    "also": ["sequential_calls"],
    "modules": ["httpx"],
}


def search(client, number):
    with truth.waiting("network"):
        client.get(f"{truth.HTTP}/hold/350", params={"q": number})


with httpx.Client() as client:
    for number in range(4):
        search(client, number)
