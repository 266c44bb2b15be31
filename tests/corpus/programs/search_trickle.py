"""An answer that trickles in: 24 short waits for one server are one finding."""

import urllib.request

import truth

EXPECT = {"findings": [("blocking_network_call", "download", "http")]}


def download():
    with truth.waiting("network"):
        answer = urllib.request.urlopen(f"{truth.HTTP}/drip/50/24")
        while answer.read1(1):
            pass


download()
