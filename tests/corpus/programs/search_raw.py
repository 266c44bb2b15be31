"""Four searches over a bare socket, waiting in recv."""

import socket

import truth

EXPECT = {
    "findings": [("blocking_network_call", "search", "http")],
    "also": ["sequential_calls"],
}


def search():
    with socket.create_connection(("127.0.0.1", truth.PORTS["http"])) as s, truth.waiting("network"):
        s.sendall(b"GET /hold/350 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        while s.recv(4096):
            pass


for _ in range(4):
    search()
