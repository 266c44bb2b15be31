"""Ends before anything can be said of it."""

import truth

EXPECT = {"findings": []}

print(truth.HTTP)
