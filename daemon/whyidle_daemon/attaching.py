"""Attaches uprobes in a thread, and waits for it no longer than the daemon can do without.

The kernel puts a probe into every process that maps the file, observed or not, and takes each one's lock of
its mappings for that. A process can hold its own for as long as it likes (a page fault that a file system of
its user's does not answer), and nobody ends who waits for it, not even SIGKILL; the C library every process
maps. The daemon then goes on without new probes until that process lets go.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import queue
import threading
from collections.abc import Callable, Iterable, Sequence

log = logging.getLogger(__name__)

LIMIT_S = 2.0

Attach = Callable[[str, str, Sequence[int]], tuple[int, ...]]
"""``attach(kind, path, offsets)`` returns the descriptors of the probes, which last as long as these."""


def close_all(descriptors: Iterable[int]) -> None:
    """Close descriptors: probes last as long as theirs."""
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)


class _Task:
    """One call: whoever takes it first, the thread's result or the end of waiting, decides."""

    def __init__(self, kind: str, path: str, offsets: Sequence[int]) -> None:
        self.arguments = (kind, path, offsets)
        self.done = threading.Event()
        self.lock = threading.Lock()
        self.given_up = False
        self.descriptors: tuple[int, ...] = ()
        self.error: OSError | KeyError | None = None


class Attaching:
    """Calls ``attach`` as if there were no thread between."""

    def __init__(self, attach: Attach) -> None:
        self._attach = attach
        self._queue: queue.SimpleQueue[_Task] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._stuck: _Task | None = None

    @property
    def stuck(self) -> bool:
        """An earlier call has not returned, so there is no use in another one."""
        return self._stuck is not None and not self._stuck.done.is_set()

    def __call__(self, kind: str, path: str, offsets: Sequence[int]) -> tuple[int, ...]:
        """See :data:`Attach`. Raises what that does; BlockingIOError where it hangs, or an earlier one."""
        if self.stuck:
            raise BlockingIOError(errno.EAGAIN, "an earlier probe is not attached yet")
        if self._stuck is not None:
            self._stuck = None
            log.info("uprobes are attached again")
        task = _Task(kind, path, offsets)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="attaching", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # no room for a thread
                self._thread = None
                raise BlockingIOError(errno.EAGAIN, "no thread can be started") from None
        self._queue.put(task)
        if not task.done.wait(LIMIT_S):
            with task.lock:
                task.given_up = not task.done.is_set()
            if task.given_up:
                self._stuck = task
                log.warning(
                    "no uprobes for now: a process that maps the library holds up whoever attaches them (in "
                    "a page fault that is not answered); names, models and CUDA calls of new libraries are "
                    "not seen until it goes on or ends"
                )
                raise BlockingIOError(errno.EAGAIN, "a process that maps it holds it up")
        if task.error is not None:
            raise task.error
        return task.descriptors

    def _run(self) -> None:
        while True:
            task = self._queue.get()
            try:
                task.descriptors = self._attach(*task.arguments)
            except (OSError, KeyError) as error:
                task.error = error
            except Exception as error:  # a mistake of ours must not stop the thread
                log.exception("attaching failed")
                task.error = OSError(errno.EINVAL, str(error))
            with task.lock:
                task.done.set()
                late = task.given_up
            if late:  # nobody waits for them any more: they will be asked for again
                close_all(task.descriptors)
