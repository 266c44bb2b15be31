"""Waits for the output of a program that it started: a pipe read from a child."""

import subprocess

import truth

EXPECT = {"findings": [("blocking_subprocess", "convert", None)]}


def convert():
    with truth.waiting("child"):
        subprocess.run(["sh", "-c", "sleep 0.6; echo done"], capture_output=True, check=True)


for _ in range(2):
    convert()
