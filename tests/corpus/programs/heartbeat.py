"""Decoy: a long poll beside the work."""

import threading
import urllib.request

import truth

EXPECT = {"findings": []}


def beat():
    while True:
        urllib.request.urlopen(f"{truth.HTTP}/hold/400").read()


threading.Thread(target=beat, daemon=True).start()
truth.cpu_for(1.3)
