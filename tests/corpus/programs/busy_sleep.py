"""Looks every half millisecond whether something has happened."""

import threading
import time

import truth

EXPECT = {"needs": ["stacks_of_short_waits"], "findings": [("busy_polling", "wait_for", None)]}


def wait_for(moment):
    while time.monotonic() < moment:
        time.sleep(0.0005)


wait_for(time.monotonic() + 1.5)
truth.delayed(threading.get_native_id(), truth.run_delay())
