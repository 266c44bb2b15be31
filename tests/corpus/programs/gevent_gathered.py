"""Decoy: greenlets that search at the same time; the hub waits for all of them."""

from gevent import monkey, spawn, wait

monkey.patch_all()

import urllib.request  # noqa: E402 (after the patch)

import truth  # noqa: E402

EXPECT = {"findings": [], "modules": ["gevent"]}


def search():
    urllib.request.urlopen(f"{truth.HTTP}/hold/600").read()


with truth.waiting("event_loop|network"):
    wait([spawn(search) for _ in range(6)])
