"""``python -m benchmarks.soak``: hours of a mixed load in front of one daemon, and whether it grows by it."""
