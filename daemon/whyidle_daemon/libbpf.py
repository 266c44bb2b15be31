"""The few libbpf and kernel calls the daemon needs, by ctypes.

Reading maps and the ring buffer this way costs 15 MB of memory where importing bcc costs 130. Every
function raises :class:`OSError` with the kernel's error number.
"""

from __future__ import annotations

import ctypes as c
import errno
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

ANY, NOEXIST = 0, 1
_PERF_EVENT_IOC_ENABLE, _PERF_EVENT_IOC_SET_BPF = 0x2400, 0x40042408
_NR_BPF = {"x86_64": 321, "aarch64": 280}[os.uname().machine]
_BPF_LINK_CREATE, _TRACE_UPROBE_MULTI, _UPROBE_MULTI_RETURN = 28, 48, 1
_NR_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}[os.uname().machine]
_PERF_FLAG_FD_CLOEXEC = 8
_PERF_TYPE_SOFTWARE, _PERF_COUNT_SW_CPU_CLOCK, _PERF_ATTR_FREQ = 1, 0, 1 << 10
_UPROBE_TYPE = "/sys/bus/event_source/devices/uprobe/type"
_UPROBE_RETURN = "/sys/bus/event_source/devices/uprobe/format/retprobe"
_BATCH = 128
_OBJ_INFO_SIZE, _INFO_NAME, _INFO_RUN_NS = 256, 64, 192  # of struct bpf_prog_info, in bytes

_lib: Any = None
_libc = c.CDLL(None, use_errno=True)


def library() -> Any:
    """libbpf itself, loaded on first use. Raises :class:`OSError` when it is not installed."""
    global _lib  # noqa: PLW0603 (one handle per process is what dlopen gives anyway)
    if _lib is None:
        for name in ("libbpf.so.1", "libbpf.so.0"):
            try:
                _lib = c.CDLL(name, use_errno=True)
                break
            except OSError:
                continue
        else:
            raise OSError(errno.ENOENT, "libbpf.so.1 was not found (apt-get install libbpf1)")
        _lib.ring_buffer__new.restype = c.c_void_p
        _lib.ring_buffer__new.argtypes = (c.c_int, _SAMPLE, c.c_void_p, c.c_void_p)
        _lib.ring_buffer__consume.argtypes = (c.c_void_p,)
        _lib.ring_buffer__free.argtypes = (c.c_void_p,)
        _lib.ring_buffer__epoll_fd.argtypes = (c.c_void_p,)
    return _lib


_SAMPLE = c.CFUNCTYPE(c.c_int, c.c_void_p, c.c_void_p, c.c_size_t)


def _check(result: int) -> int:
    if result < 0:
        number = c.get_errno() or -result
        raise OSError(number, os.strerror(number))
    return result


class Map:
    """A BPF map with fixed key and value sizes (bytes)."""

    def __init__(self, fd: int, key_size: int, value_size: int) -> None:
        self.fd = fd
        self._lib = library()
        self._key_size, self._value_size = key_size, value_size
        self._value = c.create_string_buffer(value_size)
        self._batch = _BATCH
        self._keys: Any = None
        self._values: Any = None

    def get(self, key: bytes) -> bytes | None:
        """The value, or ``None``."""
        if self._lib.bpf_map_lookup_elem(self.fd, key, self._value) < 0:
            return None
        return self._value.raw

    def set(self, key: bytes, value: bytes, flags: int = ANY) -> None:
        _check(self._lib.bpf_map_update_elem(self.fd, key, value, c.c_uint64(flags)))

    def delete(self, key: bytes) -> bool:
        """False when there was none."""
        return bool(self._lib.bpf_map_delete_elem(self.fd, key) >= 0)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Every entry of a hash map, a batch at a time (kernel 5.6 and later)."""
        return self._entries(self._lib.bpf_map_lookup_batch)

    def values(self) -> Iterator[bytes]:
        """As :meth:`items`, the values of each batch one after another."""
        return (
            c.string_at(self._values, count * self._value_size)
            for count in self._batches(self._lib.bpf_map_lookup_batch)
        )

    def drain(self) -> Iterator[tuple[bytes, bytes]]:
        """As :meth:`items`, and each entry is removed in the same step."""
        return self._entries(self._lib.bpf_map_lookup_and_delete_batch)

    def _entries(self, call: Any) -> Iterator[tuple[bytes, bytes]]:
        for count in self._batches(call):
            key_bytes = c.string_at(self._keys, count * self._key_size)
            value_bytes = c.string_at(self._values, count * self._value_size)
            for i in range(count):
                yield (
                    key_bytes[i * self._key_size : (i + 1) * self._key_size],
                    value_bytes[i * self._value_size : (i + 1) * self._value_size],
                )

    def _batches(self, call: Any) -> Iterator[int]:
        """How many entries each batch has put into ``_keys`` and ``_values``."""
        size = self._batch
        if self._keys is None:
            self._keys = c.create_string_buffer(size * self._key_size)
            self._values = c.create_string_buffer(size * self._value_size)
        keys, values = self._keys, self._values
        position, following = c.create_string_buffer(64), c.create_string_buffer(64)
        first = True
        while True:
            count = c.c_uint32(size)
            c.set_errno(0)
            result = call(self.fd, None if first else position, following, keys, values, c.byref(count), None)
            number = c.get_errno() or -result if result < 0 else 0
            if number == errno.ENOSPC and size < 1 << 16:  # one bucket holds more than the batch
                size = self._batch = size * 2
                keys = self._keys = c.create_string_buffer(size * self._key_size)
                values = self._values = c.create_string_buffer(size * self._value_size)
                continue
            if number not in (0, errno.ENOENT):
                raise OSError(number, os.strerror(number))
            yield count.value
            if number == errno.ENOENT:  # that was the last one
                return
            position, following = following, position
            first = False


class RingBuffer:
    """Consumer of one ring buffer.

    ``handle`` gets each record as bytes. A turn of :meth:`consume` ends after ``limit`` records: a storm
    never empties the buffer, and the loop has other work.
    """

    def __init__(self, fd: int, handle: Callable[[bytes], None]) -> None:
        self._lib = library()
        self._handle = handle
        self._left = 0
        self._error: BaseException | None = None
        self._callback = _SAMPLE(self._sample)
        self._ring = self._lib.ring_buffer__new(fd, self._callback, None, None)
        if not self._ring:
            number = c.get_errno()
            raise OSError(number, os.strerror(number))

    def fileno(self) -> int:
        """Readable when the kernel asked for a wake-up."""
        fd: int = self._lib.ring_buffer__epoll_fd(self._ring)
        return fd

    def _sample(self, _context: Any, data: int, size: int) -> int:
        try:
            self._handle(c.string_at(data, size))
        except BaseException as error:  # ctypes would print and swallow it
            self._error = error
            return -1
        self._left -= 1
        return 0 if self._left > 0 else -1  # the record counts as consumed either way

    def consume(self, limit: int) -> int:
        """Handle at most ``limit`` records; returns how many. Re-raises what the handler raised."""
        self._left = limit
        self._lib.ring_buffer__consume(self._ring)
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return limit - self._left

    def close(self) -> None:
        if self._ring:
            self._lib.ring_buffer__free(self._ring)
            self._ring = None


def attach_tracepoint(program: int) -> int:
    """Attach a loaded program of a tracepoint; closing the descriptor ends it. Needs no privilege."""
    return _check(library().bpf_raw_tracepoint_open(None, program))


def attach_clock(program: int, tid: int, hertz: int) -> int:
    """Run a program so many times per second of a thread's CPU time; returns the event's descriptor.

    Closing the descriptor ends it. Costs nothing while the thread does not run.
    """
    size = 128
    attributes = bytearray(size)
    struct.pack_into("<IIQQ", attributes, 0, _PERF_TYPE_SOFTWARE, size, _PERF_COUNT_SW_CPU_CLOCK, hertz)
    struct.pack_into("<Q", attributes, 40, _PERF_ATTR_FREQ)
    return _open_event(attributes, program, tid, -1)


def link_uprobes(program: int, path: str, offsets: Sequence[int], returns: bool) -> int:
    """:func:`attach_uprobe` by a link (6.6 and later): needs no privilege beyond the loaded program.

    All ``offsets`` at once: each attachment by itself waits for the whole machine, some milliseconds.
    """
    packed = struct.pack(f"={len(offsets)}Q", *offsets)
    name, at = c.create_string_buffer(os.fsencode(path)), c.create_string_buffer(packed, len(packed))
    flags = _UPROBE_MULTI_RETURN if returns else 0
    link = (program, 0, _TRACE_UPROBE_MULTI, 0)
    request = struct.pack(
        "=4I4Q3I4x", *link, c.addressof(name), c.addressof(at), 0, 0, len(offsets), flags, 0
    )
    return _check(_libc.syscall(_NR_BPF, c.c_ulong(_BPF_LINK_CREATE), request, c.c_ulong(len(request))))


def attach_uprobe(program: int, path: str, offset: int, returns: bool) -> int:
    """Attach to an offset in a file, in every process that maps it; returns the event's descriptor.

    Closing the descriptor detaches. ``offset`` is a file offset, ``returns`` asks for the function's return.
    """
    with open(_UPROBE_TYPE, encoding="ascii") as file:  # noqa: PTH123
        event_type = int(file.read())
    config = 0
    if returns:
        with open(_UPROBE_RETURN, encoding="ascii") as file:  # noqa: PTH123
            config = 1 << int(file.read().strip().removeprefix("config:"))
    name = c.create_string_buffer(os.fsencode(path))
    size = 128
    attributes = bytearray(size)
    struct.pack_into("<IIQ", attributes, 0, event_type, size, config)
    struct.pack_into("<QQ", attributes, 56, c.addressof(name), offset)
    return _open_event(attributes, program, -1, 0)


def _open_event(attributes: bytearray, program: int, tid: int, cpu: int) -> int:
    buffer = (c.c_char * len(attributes)).from_buffer(attributes)
    flags = c.c_ulong(_PERF_FLAG_FD_CLOEXEC)
    fd = _check(_libc.syscall(_NR_PERF_EVENT_OPEN, buffer, tid, cpu, -1, flags))
    try:
        _check(_libc.ioctl(fd, c.c_ulong(_PERF_EVENT_IOC_SET_BPF), c.c_ulong(program)))
        _check(_libc.ioctl(fd, c.c_ulong(_PERF_EVENT_IOC_ENABLE), c.c_ulong(0)))
    except OSError:
        os.close(fd)
        raise
    return fd


def run_iterator(link: int) -> None:
    """Run an iterator program over everything once; its own output is discarded."""
    fd = _check(library().bpf_iter_create(link))
    try:
        while os.read(fd, 65536):
            pass
    finally:
        os.close(fd)


class ProgramInfo(NamedTuple):
    """What the kernel says of a loaded program; it counts runs only while kernel.bpf_stats_enabled is on."""

    name: str
    run_ns: int
    runs: int
    skipped: int  # runs, since it was at work on that CPU; 0 before Linux 5.12, which does not count them


def program_info(fd: int) -> ProgramInfo:
    """From ``struct bpf_prog_info``; the name has 15 characters at most."""
    info = c.create_string_buffer(_OBJ_INFO_SIZE)
    size = c.c_uint32(_OBJ_INFO_SIZE)
    _check(library().bpf_obj_get_info_by_fd(fd, info, c.byref(size)))
    name: bytes = struct.unpack_from("16s", info, _INFO_NAME)[0]
    return ProgramInfo(name.rstrip(b"\0").decode(), *struct.unpack_from("<QQQ", info, _INFO_RUN_NS))


def program_ids() -> Iterator[int]:
    """The kernel's numbers of all loaded programs."""
    number = c.c_uint32(0)
    while library().bpf_prog_get_next_id(number, c.byref(number)) == 0:
        yield number.value
