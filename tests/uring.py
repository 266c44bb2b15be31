"""The beginning of a program that uses io_uring by its system calls (linux/io_uring.h)."""

URING = r"""
import ctypes, mmap, os, socket, struct, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
SETUP, ENTER, GETEVENTS = 425, 426, 1
NOP, TIMEOUT, READ, RECV = 0, 11, 22, 27
IN_A_WORKER = 16  # IOSQE_ASYNC

class Ring:
    def __init__(self, entries=8):
        parameters = ctypes.create_string_buffer(120)
        self.fd = libc.syscall(SETUP, entries, parameters)
        if self.fd < 0:
            print("no io_uring: " + os.strerror(ctypes.get_errno()), flush=True)
            sys.exit(0)
        (self.entries,) = struct.unpack_from("<I", parameters, 0)
        self.sq = struct.unpack_from("<10I", parameters, 40)
        self.cq = struct.unpack_from("<10I", parameters, 80)
        size = max(self.sq[6] + self.entries * 4, self.cq[5] + self.entries * 2 * 16)
        self.ring = mmap.mmap(self.fd, size)
        self.requests = mmap.mmap(self.fd, self.entries * 64, offset=0x10000000)

    def word(self, at):
        return struct.unpack_from("<I", self.ring, at)[0]

    def push(self, operation, fd, buffer, length, offset=0, flags=0):
        tail = self.word(self.sq[1])
        index = tail & self.word(self.sq[2])
        request = struct.pack("<BBHiQQI", operation, flags, 0, fd, offset, ctypes.addressof(buffer), length)
        self.requests[index * 64 : index * 64 + 64] = request.ljust(64, b"\0")
        struct.pack_into("<I", self.ring, self.sq[6] + 4 * index, index)
        struct.pack_into("<I", self.ring, self.sq[1], tail + 1)

    def wait(self, submit=1):
        # Until one request has completed; its result.
        while libc.syscall(ENTER, self.fd, submit, 1, GETEVENTS, None, 0) < 0:
            assert ctypes.get_errno() == 4, os.strerror(ctypes.get_errno())
            submit = 0
        head = self.word(self.cq[0])
        at = self.cq[5] + 16 * (head & self.word(self.cq[2]))
        struct.pack_into("<I", self.ring, self.cq[0], head + 1)
        return struct.unpack_from("<Qi", self.ring, at)[1]

buffer = ctypes.create_string_buffer(1 << 16)
ring = Ring()
"""
