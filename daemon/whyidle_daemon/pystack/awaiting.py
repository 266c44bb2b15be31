"""What a suspended coroutine waits for: a timer, a lock, another task, a socket and which one.

The frames of libraries inside the user's own code say what kind of wait it is. For a socket, what such a
frame calls ``self`` (in asyncio's own event loop: any local) leads to the transport and this to the
descriptor, over attributes that asyncio, anyio (httpx), aiohttp and their like have. A descriptor counts
only if the caller has it in the set that the loop's selector really waits for, so a torn or a lying read
can name no socket that the loop does not wait for.

uvloop's transports are C structures, compiled from uvloop's ``handles/*.pxd`` and libuv's ``uv.h`` (whose ABI
is fixed within 1.x): each points to a libuv handle that points back to it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Container, Iterator, Sequence
from typing import NamedTuple

from whyidle_daemon.pystack.errors import StackError
from whyidle_daemon.pystack.heap import Heap
from whyidle_daemon.pystack.instances import Instances, Kind
from whyidle_daemon.pystack.own import Origin, origin
from whyidle_daemon.pystack.walk import Frame

SOCKET, TIMER, TASK, LOCK, QUEUE = "socket", "timer", "task", "lock", "queue"
THREAD, DNS, CHILD, CONNECT, FUTURE = "thread", "dns", "child", "connect", "future"

# By what the innermost frame is: file in asyncio, function (any if empty), kind.
_KINDS = (
    ("/asyncio/tasks.py", "sleep", TIMER),
    ("/asyncio/tasks.py", "__sleep0", TIMER),
    ("/asyncio/tasks.py", "", TASK),
    ("/asyncio/taskgroups.py", "", TASK),
    ("/asyncio/threads.py", "", THREAD),
    ("/asyncio/base_events.py", "getaddrinfo", DNS),
    ("/asyncio/base_events.py", "_ensure_resolved", DNS),
    ("/asyncio/subprocess.py", "", CHILD),
    ("/asyncio/base_subprocess.py", "", CHILD),
    ("/asyncio/queues.py", "", QUEUE),
    ("/asyncio/locks.py", "", LOCK),
    ("/asyncio/streams.py", "open_connection", CONNECT),
    ("/asyncio/streams.py", "open_unix_connection", CONNECT),
)
_BETWEEN = ("/asyncio/locks.py", "/asyncio/queues.py", "/asyncio/timeouts.py")
NO_SOCKET = {TIMER, TASK, THREAD, DNS, CHILD}
_LOOPS = ("/asyncio/base_events.py", "/asyncio/selector_events.py", "/asyncio/unix_events.py")
_ATTRIBUTES = (
    *("_sock", "_transport", "transport", "_ssl_protocol", "_protocol", "protocol", "_stream"),
    *("_network_stream", "transport_stream", "_connection", "connection"),
)
_MAX_FRAMES = 4
_MAX_LOCALS = 24
_MAX_OBJECTS = 40
_MAX_DEPTH = 6
_MAX_CHILDREN = 64

_AFTER_HEAD = 16  # _socket.socket: its descriptor; select.epoll: likewise; FutureIter: its future
_UV_HANDLE_OF = 24  # uvloop.loop.UVHandle: after the head and Cython's table of functions
_UV_TYPE, _UV_FD = 16, 184  # uv_handle_t.type, uv_stream_t.io_watcher.fd
_UV_STREAMS = (7, 12)  # UV_NAMED_PIPE, UV_TCP
_UV_LOOP_OF, _UV_BACKEND = 24, 64  # uvloop.loop.Loop, uv_loop_t.backend_fd
_UV_WRAPPERS = ("uvloop.loop.SSLProtocol", "uvloop.loop._SSLProtocolTran")  # names are cut
_TASKS = ("_asyncio.Task", "Task")


class Point(NamedTuple):
    """A suspended frame: where its locals and its stack are, and how many words."""

    frame: Frame
    locals: int
    number: int


class Awaiting(NamedTuple):
    """``kind``: one of the words of this module. ``joins`` are objects that may be tasks: these it awaits."""

    kind: str
    descriptor: int | None
    joins: tuple[int, ...]


class Awaits:
    """Raises :class:`StackError`."""

    def __init__(self, read: Callable[[int, int], bytes], heap: Heap, instances: Instances) -> None:
        self._read, self._heap, self._instances = read, heap, instances

    def of(self, points: Sequence[Point], awaited: int, registered: Container[int]) -> Awaiting:
        """What the innermost of ``points`` (from the outermost inward) waits for.

        ``awaited`` is the object it awaits, ``registered`` the descriptors that its selector waits for.
        """
        library = []
        for point in reversed(points):
            if origin(point.frame.file) is Origin.OWN:
                break
            library.append(point)
        joins = self._joins(awaited, library[0] if library else None)
        kind = _kind_of(library[0].frame) if library else FUTURE
        if kind == FUTURE and joins:
            kind = TASK
        if kind in NO_SOCKET:
            return Awaiting(kind, None, joins)
        descriptor = self._find(library, registered)
        return Awaiting(SOCKET if descriptor is not None else kind, descriptor, joins)

    def selector(self, loop: int) -> int | None:
        """The descriptor of the epoll set that a loop sleeps in, ``None`` if that cannot be read."""
        kind = self._instances.kind(loop)
        if "uvloop.loop.Loop" in kind.names:
            inner = self._heap.pointer(loop + _UV_LOOP_OF)
            if not inner or self._heap.pointer(inner) != loop:
                return None
            return self._int(inner + _UV_BACKEND)
        for selector in self._instances.attributes(loop, kind, ("_selector",)):
            inner_kind = self._instances.kind(selector)
            for epoll in self._instances.attributes(selector, inner_kind, ("_selector",)):
                if self._instances.kind(epoll).names[:1] == ("select.epoll",):
                    return self._int(epoll + _AFTER_HEAD)
        return None

    def _find(self, library: Sequence[Point], registered: Container[int]) -> int | None:
        looked = 0
        for point in library:
            file = point.frame.file
            if file.endswith(_BETWEEN):
                continue
            of_loop = file.endswith(_LOOPS)
            for value in self._locals(point, _MAX_LOCALS if of_loop else 1):
                found = self._descriptor(value, registered)
                if found is not None:
                    return found
            looked += 1
            if looked >= _MAX_FRAMES:
                break
        return None

    def _locals(self, point: Point, limit: int) -> Iterator[int]:
        count = min(point.number, limit)
        if count > 0:
            words = struct.unpack(f"<{count}Q", self._read(point.locals, 8 * count))
            yield from self._heap.references(words)

    def _descriptor(self, start: int, registered: Container[int]) -> int | None:
        """The registered descriptor that an object stands for: breadth first over a few attributes."""
        queue, seen = [(start, 0)], {start}
        for address, depth in queue:
            try:
                kind = self._instances.kind(address)
                found = self._own(address, kind)
                if found is not None:
                    if found in registered:
                        return found
                    continue
                following = self._following(address, kind) if depth < _MAX_DEPTH else ()
                for value in following:
                    if value not in seen and len(seen) < _MAX_OBJECTS:
                        seen.add(value)
                        queue.append((value, depth + 1))
            except StackError as error:
                if error.reason == "gone":
                    raise
        return None

    def _following(self, address: int, kind: Kind) -> Iterator[int]:
        if kind.names[0].startswith(_UV_WRAPPERS):
            for word in self._instances.words(address, kind.size)[2:]:
                if word and not word & 7 and self._is_uvloops(word):
                    yield word
            return
        yield from self._instances.attributes(address, kind, _ATTRIBUTES)

    def _is_uvloops(self, address: int) -> bool:
        try:
            return (
                self._instances.kind(address)
                .names[0]
                .startswith(("uvloop.loop.TCPTransport", "uvloop.loop.UnixTransport", *_UV_WRAPPERS))
            )
        except StackError as error:
            if error.reason == "gone":
                raise
            return False

    def _own(self, address: int, kind: Kind) -> int | None:
        """The descriptor in a socket, or in the handle of a transport of uvloop."""
        if "_socket.socket" in kind.names:
            return self._int(address + _AFTER_HEAD)
        if "uvloop.loop.UVHandle" in kind.names:
            handle = self._heap.pointer(address + _UV_HANDLE_OF)
            if not handle or self._heap.pointer(handle) != address:
                return -1
            return self._int(handle + _UV_FD) if self._int(handle + _UV_TYPE) in _UV_STREAMS else -1
        return None

    def _joins(self, awaited: int, innermost: Point | None) -> tuple[int, ...]:
        """What may be tasks: what is awaited itself, the children of a gather, the locals of a wait."""
        found: list[int] = []
        try:
            if awaited:
                future = awaited
                kind = self._instances.kind(awaited)
                if kind.names[0] == "_asyncio.FutureIter":
                    future = self._heap.pointer(awaited + _AFTER_HEAD)
                    kind = self._instances.kind(future) if future else kind
                if self.is_task(future):
                    found.append(future)
                elif kind.names[0] == "_GatheringFuture":
                    for children in self._instances.attributes(future, kind, ("_children",)):
                        found += filter(self.is_task, self._heap.items(children, _MAX_CHILDREN))
            if innermost is not None and innermost.frame.file.endswith("/asyncio/tasks.py"):
                found += filter(self.is_task, self._locals(innermost, _MAX_LOCALS))
        except StackError as error:
            if error.reason == "gone":
                raise
        return tuple(dict.fromkeys(found))

    def is_task(self, address: int) -> bool:
        """Is it a task of the accelerated kind, or of a class derived from it?"""
        return any(name in _TASKS for name in self._instances.kind(address).names)

    def task_size(self, address: int) -> int:
        """Bytes of the task at an address, 0 if none is there."""
        return self._instances.kind(address).size if self.is_task(address) else 0

    def _int(self, address: int) -> int:
        return int.from_bytes(self._read(address, 4), "little", signed=True)


def _kind_of(innermost: Frame) -> str:
    """What kind of wait it is, by the frame that waits."""
    name = innermost.function.rpartition(".")[2]
    for file, function, kind in _KINDS:
        if innermost.file.endswith(file) and function in ("", name):
            return kind
    return FUTURE
