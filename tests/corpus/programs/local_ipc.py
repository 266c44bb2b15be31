"""Waits for another thread through a pipe, a Unix socket and an eventfd."""

import os
import socket
import threading
import time

import truth

EXPECT = {"findings": []}

reader, writer = os.pipe()
left, right = socket.socketpair()
event = os.eventfd(0)


def answer():
    for send in (
        lambda: os.write(writer, b"x"),
        lambda: right.send(b"x"),
        lambda: os.eventfd_write(event, 1),
    ):
        time.sleep(0.4)
        send()


threading.Thread(target=answer).start()
with truth.waiting("local_ipc"):
    os.read(reader, 1)
    left.recv(1)
    os.eventfd_read(event)
