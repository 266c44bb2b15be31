"""What Python calls a thread of another process: ``threading`` has them by the C library's number.

Before 3.14 the kernel does not know these names: every thread of a pool is called like the program.
"""

from __future__ import annotations

from whyidle_daemon.pystack.errors import StackError
from whyidle_daemon.pystack.heap import Heap
from whyidle_daemon.pystack.instances import Instances
from whyidle_daemon.pystack.memory import Metered, Read
from whyidle_daemon.pystack.modules import Modules
from whyidle_daemon.pystack.objects import Objects
from whyidle_daemon.pystack.runtime import Interpreter
from whyidle_daemon.pystack.threads import ThreadState

MAX_NAME = 64
_MAX_THREADS = 4096
_READS = 20_000  # to find the module among all that were imported is two each
_TRIES = 3  # a thread is known to ``threading`` only some time after its beginning, or never


class ThreadNames:
    """Raises :class:`StackError`: ``unsupported`` on construction for versions other than 3.11 to 3.15."""

    def __init__(self, read: Read, python: Interpreter, objects: Objects) -> None:
        self._meter = Metered(read)
        self._heap = Heap(self._meter, python)
        self._objects = objects
        self._instances = Instances(self._meter, self._heap, objects)
        self._modules = Modules(python, self._heap)
        self._known: dict[int, tuple[ThreadState, str, int]] = {}

    def name(self, state: ThreadState) -> str:
        """At most 64 characters of a thread's name, read once; empty where it has none. Raises ``gone``."""
        known, name, tries = self._known.get(state.address, (state, "", 0))
        if known != state:  # another thread at the address
            name, tries = "", 0
        if not name and tries < _TRIES:
            try:
                name = self._read(state)
            except StackError as error:
                if error.reason == "gone":
                    raise
            if len(self._known) >= _MAX_THREADS:
                self._known.clear()
            self._known[state.address] = state, name, tries + 1
        return name

    def _read(self, state: ThreadState) -> str:
        self._meter.allow(_READS)
        namespace = self._modules.namespace(state.interpreter, "threading")
        active = self._modules.value(namespace, "_active") if namespace is not None else None
        thread = self._heap.numbered(active, state.thread, _MAX_THREADS) if active is not None else None
        if thread is None:
            return ""
        kind = self._instances.kind(thread)
        for text in self._instances.attributes(thread, kind, ("_name",)):
            return self._objects.text(text, MAX_NAME)
        return ""
