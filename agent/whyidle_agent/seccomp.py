"""Which system calls the sandbox refuses: those that would get a program past the watch on its memory.

What is in no process' own memory is seen by no watch on processes: shared memory without a file, memory
behind a descriptor, queues of the kernel, a file system in memory of its own (for which a user namespace is
needed). The filter is classic BPF as seccomp(2) has it.
"""

import errno
import struct

# linux/audit.h, and asm/unistd.h of each architecture.
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_CALLS = {
    "x86_64": {"mmap": 9, "shmget": 29, "clone": 56, "semget": 64, "msgget": 68, "unshare": 272, "setns": 308}
    | {"memfd_create": 319, "userfaultfd": 323},
    "aarch64": {"unshare": 97, "msgget": 186, "semget": 190, "shmget": 194, "clone": 220, "mmap": 222}
    | {"setns": 268, "memfd_create": 279, "userfaultfd": 282},
}
_CALLS_OF_ALL = {"io_uring_setup": 425, "clone3": 435, "memfd_secret": 447}
_REFUSED = sorted({*_CALLS["x86_64"], *_CALLS_OF_ALL} - {"mmap", "clone", "clone3"})  # whatever is asked
_X32 = 0x4000_0000  # x86_64's other set of numbers
_CLONE_NEWUSER = 0x1000_0000
_MAP_SHARED, _MAP_ANONYMOUS, _MAP_HUGETLB = 0x01, 0x20, 0x4_0000

_LOAD, _AND, _EQUAL, _ANY, _RETURN = 0x20, 0x54, 0x15, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # where they are in seccomp_data
_ALLOW, _ERRNO, _KILL = 0x7FFF_0000, 0x0005_0000, 0x8000_0000


def program(machine: str) -> bytes | None:
    """Return the filter for `machine`, as uname names it; None: there is none for it."""
    if machine not in _ARCHITECTURES:
        return None
    calls = _CALLS[machine] | _CALLS_OF_ALL
    refuse = _return(_ERRNO | errno.EPERM)
    code = _load(_ARCHITECTURE) + _unless(_EQUAL, _ARCHITECTURES[machine], _return(_KILL))
    code += _load(_NUMBER) + _when(_ANY, _X32, _return(_KILL))
    for name in _REFUSED:
        code += _when(_EQUAL, calls[name], refuse)
    # Its flags are in memory, where no filter can read them; without it, the C library uses clone.
    code += _when(_EQUAL, calls["clone3"], _return(_ERRNO | errno.ENOSYS))
    flags = _load(_ARGUMENTS) + _when(_ANY, _CLONE_NEWUSER, refuse) + _return(_ALLOW)
    code += _when(_EQUAL, calls["clone"], flags)
    shared = _MAP_SHARED | _MAP_ANONYMOUS
    flags = _load(_ARGUMENTS + 3 * 8) + _when(_ANY, _MAP_HUGETLB, refuse)
    flags += _one(_AND, shared) + _when(_EQUAL, shared, refuse) + _return(_ALLOW)
    code += _when(_EQUAL, calls["mmap"], flags)
    return code + _return(_ALLOW)


def _one(operation: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    """Return one instruction. `yes`, `no`: instructions to pass over, of a comparison."""
    return struct.pack("=HBBI", operation, yes, no, value)


def _load(offset: int) -> bytes:
    return _one(_LOAD, offset)  # of 8 bytes the lower 4: both architectures begin with those


def _return(value: int) -> bytes:
    return _one(_RETURN, value)


def _when(comparison: int, value: int, then: bytes) -> bytes:
    return _one(comparison, value, no=len(then) // 8) + then


def _unless(comparison: int, value: int, then: bytes) -> bytes:
    return _one(comparison, value, yes=len(then) // 8) + then
