"""Decoy: searches run in a pool while the main thread computes; nobody waits for them."""

import urllib.request
from concurrent.futures import ThreadPoolExecutor

import truth

EXPECT = {"findings": []}


def search():
    urllib.request.urlopen(f"{truth.HTTP}/hold/900").read()


with ThreadPoolExecutor(4) as pool:
    futures = [pool.submit(search) for _ in range(4)]
    truth.cpu_for(1.2)
    for future in futures:
        future.result()
