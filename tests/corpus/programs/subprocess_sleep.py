"""Waits for a program that it started."""

import subprocess

import truth

EXPECT = {"findings": [("blocking_subprocess", "convert", None)], "quick": True}


def convert():
    with truth.waiting("child"):
        subprocess.run(["sleep", "0.6"], check=True)


for _ in range(2):
    convert()
