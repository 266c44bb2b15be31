"""A start comes before the rest of the host, and what runs afterwards does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import json, os, subprocess, sys, threading
from whyidle_daemon import start_priority

def everybody():
    return sorted({os.getpriority(os.PRIO_PROCESS, int(task)) for task in os.listdir("/proc/self/task")})

given = os.getpriority(os.PRIO_PROCESS, 0)
start_priority.raise_it()
done = threading.Event()
threading.Thread(target=done.wait, daemon=True).start()
child = [sys.executable, "-c", "import os; print(os.getpriority(os.PRIO_PROCESS, 0))"]
raised = everybody() + [int(subprocess.run(child, capture_output=True, check=True).stdout)]
start_priority.restore()
start_priority.restore()
restored = everybody()
done.set()
print(json.dumps([given, raised, restored]))
"""


def told(*prefix: str) -> tuple[int, list[int], list[int]]:
    """The priority before, those of all threads and a child at the start, and those afterwards."""
    done = subprocess.run(
        [*prefix, sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    given, raised, restored = json.loads(done.stdout)
    return given, raised, restored


@pytest.fixture(autouse=True)
def _needs_rise() -> None:
    """Root in a container may not come before others, as a rule."""
    rise = "import os; os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) - 10)"
    done = subprocess.run([sys.executable, "-c", rise], capture_output=True, check=False)
    if done.returncode or os.getpriority(os.PRIO_PROCESS, 0) < -10:
        pytest.skip("this process may not come before others")


def test_every_thread_and_child_until_the_start_is_over() -> None:
    """Whoever starts it behind all others has it there again afterwards."""
    for prefix in ((), ("nice", "-n", "5")):
        given, raised, restored = told(*prefix)
        assert (raised, restored) == ([given - 10, given - 10], [given])


def test_who_may_not_starts_as_everybody() -> None:
    """Under systemd it has no CAP_SYS_NICE: nothing is raised, and nothing said."""
    given, raised, restored = told("setpriv", "--bounding-set=-sys_nice", "--inh-caps=-all", "--")
    assert (raised, restored) == ([given, given], [given])


def test_a_thread_that_does_not_obey_ends_nothing() -> None:
    """Whatever runs in the daemon beside it and did not drop its capabilities: the others are restored."""
    drop = (
        "from whyidle_daemon import privileges; privileges.drop(privileges.KEPT)\nstart_priority.restore()\n"
    )
    program = PROGRAM.replace("start_priority.restore()\n", drop, 1)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    given, raised, restored = json.loads(done.stdout)
    assert (raised, restored) == ([given - 10, given - 10], [given - 10, given])
