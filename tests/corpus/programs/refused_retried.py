"""Nobody listens: each try fails at once, and the program sleeps before the next. It waits for nobody."""

import socket
import time

import truth

EXPECT = {"findings": [], "quick": True}


def connect():
    try:
        socket.create_connection(("127.0.0.1", truth.PORTS["refused"]))
    except ConnectionRefusedError:
        with truth.waiting("sleep"):
            time.sleep(0.25)


for _ in range(5):
    connect()
