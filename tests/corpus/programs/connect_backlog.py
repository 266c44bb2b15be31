"""A server whose queue is full: the connection itself takes a second."""

import socket
import urllib.request

import truth

EXPECT = {"findings": [("blocking_network_call", "connect", "backlog")]}


def connect():
    with truth.waiting("network") as wait:
        socket.create_connection(("127.0.0.1", truth.PORTS["backlog"])).close()
    assert wait.seconds > 0.8, wait.seconds


with truth.waiting("network"):
    urllib.request.urlopen(f"{truth.HTTP}/backlog/500").read()
connect()
