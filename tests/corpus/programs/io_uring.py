"""Waits for a completion of an io_uring; which state that is depends on the request, ``other`` it is not."""

import ctypes
import os

import truth

EXPECT = {"findings": []}

SETUP, ENTER = 425, 426
GETEVENTS, EXT_ARG = 1, 8


class Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_int64), ("nanoseconds", ctypes.c_int64))


class Argument(ctypes.Structure):
    _fields_ = (("mask", ctypes.c_uint64), ("mask_size", ctypes.c_uint64), ("timeout", ctypes.c_uint64))


libc = ctypes.CDLL(None, use_errno=True)
ring = libc.syscall(SETUP, 4, ctypes.create_string_buffer(120))
if ring >= 0:
    timeout = Timespec(0, 800_000_000)
    argument = Argument(0, 0, ctypes.addressof(timeout))
    with truth.waiting("network|event_loop|sleep") as wait:  # in the others it is while it starts
        libc.syscall(ENTER, ring, 0, 1, GETEVENTS | EXT_ARG, ctypes.byref(argument), ctypes.sizeof(argument))
    assert wait.seconds > 0.7, os.strerror(ctypes.get_errno())
