"""Twelve searches in a pool of two threads, and the program waits for them all."""

from concurrent.futures import ThreadPoolExecutor

import requests
import truth

EXPECT = {"findings": [("blocking_network_call", "search", "http")], "modules": ["requests"]}


def search(number):
    with truth.waiting("network"):
        requests.get(f"{truth.HTTP}/hold/250", timeout=5)


with ThreadPoolExecutor(2) as pool:
    futures = [pool.submit(search, number) for number in range(12)]
    with truth.waiting("lock"):
        for future in futures:
            future.result()
