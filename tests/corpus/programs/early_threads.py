"""Four hundred threads that die at once."""

import threading

import truth

EXPECT = {"findings": []}

for _ in range(400):
    thread = threading.Thread(target=truth.run_delay)
    thread.start()
    thread.join()
