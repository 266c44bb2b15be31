"""Searches by curl: the program waits for a child, the child for the server."""

import subprocess

import truth

# That curl waits for the server is the same wait, told from its other end.
EXPECT = {
    "findings": [("blocking_subprocess", "search", None)],
    "also": ["blocking_network_call"],
}


def search():
    with truth.waiting("child"):
        subprocess.run(["curl", "-s", f"{truth.HTTP}/hold/600"], stdout=subprocess.DEVNULL, check=True)


for _ in range(2):
    search()
