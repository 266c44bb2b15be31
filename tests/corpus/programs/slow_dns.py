"""One name looked up four times, slowly: nothing keeps the answer."""

import socket

import truth

EXPECT = {"findings": [("slow_dns", "lookup", None)], "wrap": "dns", "quick": True}


def lookup():
    with truth.waiting("dns"):
        socket.getaddrinfo("hold350.corpus.test", truth.PORTS["http"], socket.AF_INET)


for _ in range(4):
    lookup()
