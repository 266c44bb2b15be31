"""Thousands of calls of half a millisecond: no single one is long, together they are all it does."""

import socket

import truth

EXPECT = {"needs": ["stacks_of_short_waits"], "findings": [("blocking_network_call", "ask_all", "echo")]}


def ask_all(s):
    waited = 0.0
    while waited < 1.0:
        began = truth.asleep_clock()
        s.sendall(b"x")
        s.recv(1)
        waited += truth.asleep_clock() - began


s = socket.create_connection(("127.0.0.1", truth.PORTS["echo"]))
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
ask_all(s)
