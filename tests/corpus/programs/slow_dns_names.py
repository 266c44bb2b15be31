"""Four names that one slow name server answers: one function, one peer, one finding."""

import socket

import truth

EXPECT = {"findings": [("slow_dns", "lookup", None)], "wrap": "dns"}


def lookup(number):
    with truth.waiting("dns"):
        socket.getaddrinfo(f"hold350.n{number}.corpus.test", truth.PORTS["http"], socket.AF_INET)


for number in range(4):
    lookup(number)
