"""Every way to ask to be left alone for a while."""

import select
import signal
import threading
import time

import truth

EXPECT = {"findings": []}

with truth.waiting("sleep"):
    time.sleep(0.2)
    select.select([], [], [], 0.2)
    select.poll().poll(200)
    signal.sigtimedwait([signal.SIGUSR1], 0.2)
with truth.waiting("lock"):
    threading.Event().wait(0.2)
