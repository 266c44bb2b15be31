"""Sleeps, as its author wanted."""

import time

import truth

EXPECT = {"findings": [], "quick": True}

with truth.waiting("sleep"):
    time.sleep(1.2)
