"""Asks a socket again and again whether an answer is there, and never lets go of the CPU."""

import select
import socket

import truth

EXPECT = {"findings": [("busy_polling", "search", None)]}


def search():
    with socket.create_connection(("127.0.0.1", truth.PORTS["http"])) as s:
        s.sendall(b"GET /hold/1500 HTTP/1.1\r\nHost: x\r\n\r\n")
        while not select.select([s], [], [], 0)[0]:
            pass


search()
truth.own_cpu()
