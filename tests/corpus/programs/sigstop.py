"""A child is stopped for a while."""

import os
import signal
import time

import truth

EXPECT = {"findings": [], "quick": True}

child = os.fork()
if child == 0:
    time.sleep(30)
    os._exit(0)
time.sleep(0.1)
os.kill(child, signal.SIGSTOP)
os.waitpid(child, os.WUNTRACED)
began = time.monotonic()
time.sleep(0.8)
os.kill(child, signal.SIGCONT)
truth.add("stopped", time.monotonic() - began, child)
os.waitpid(child, os.WCONTINUED)
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
