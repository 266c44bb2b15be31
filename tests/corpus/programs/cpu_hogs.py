"""Two neighbours on the only CPU that the program may use."""

import os
import signal

import truth

EXPECT = {"findings": [("cpu_starved", None, None)]}

os.sched_setaffinity(0, {0})
hogs = []
for _ in range(2):
    hogs.append(os.fork())
    if hogs[-1] == 0:
        while True:
            pass
truth.cpu_for(0.6)
for hog in hogs:
    os.kill(hog, signal.SIGKILL)
for hog in hogs:
    os.waitpid(hog, 0)
truth.own_cpu()
