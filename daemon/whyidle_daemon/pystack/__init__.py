"""Python stacks of sleeping threads, read from outside: no pause, no ptrace, no instrumentation.

CPython 3.8 to 3.15 with a GIL, 64 bit. See :class:`StackReader`.
"""

from whyidle_daemon.pystack.errors import Reason, StackError
from whyidle_daemon.pystack.own import Origin, origin, own_frame
from whyidle_daemon.pystack.reader import MAX_FRAMES, Stack, StackReader
from whyidle_daemon.pystack.tasks import Task, Tasks
from whyidle_daemon.pystack.walk import Frame

__all__ = [
    "MAX_FRAMES",
    "Frame",
    "Origin",
    "Reason",
    "Stack",
    "StackError",
    "StackReader",
    "Task",
    "Tasks",
    "origin",
    "own_frame",
]
