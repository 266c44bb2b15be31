"""A cgroup that allows a fifth of a CPU."""

import os

import truth

EXPECT = {"findings": [("cpu_throttled", None, None)], "needs": ["throttled"], "quick": True}

os.sched_setaffinity(0, {0})
with truth.cpu_quota(0.2) as group:
    truth.cpu_for(0.4)
truth.add("throttled", group.throttled_s)
