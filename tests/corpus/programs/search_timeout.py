"""Four searches by http.client with a time-out: CPython waits in poll, not in recv."""

import http.client

import truth

EXPECT = {
    "findings": [("blocking_network_call", "search", "http")],
    "also": ["sequential_calls"],
}


def search():
    connection = http.client.HTTPConnection("127.0.0.1", truth.PORTS["http"], timeout=5)
    with truth.waiting("network"):
        connection.request("GET", "/hold/350")
        connection.getresponse().read()
    connection.close()


for _ in range(4):
    search()
