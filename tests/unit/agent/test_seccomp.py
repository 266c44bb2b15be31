"""The sandbox's filter, run as the kernel runs it: what is refused on each architecture, and what is not."""

import errno
import struct

import pytest

from whyidle_agent.seccomp import program

MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
NUMBERS = {  # x86_64, aarch64
    "read": (0, 63),
    "mmap": (9, 222),
    "shmget": (29, 194),
    "clone": (56, 220),
    "execve": (59, 221),
    "semget": (64, 190),
    "msgget": (68, 186),
    "unshare": (272, 97),
    "setns": (308, 268),
    "memfd_create": (319, 279),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "clone3": (435, 435),
    "memfd_secret": (447, 447),
}


def verdict(machine: str, number: int, *arguments: int, architecture: int | None = None) -> int:
    """Interpret the filter for one system call."""
    code = program(machine)
    assert code is not None
    given = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("=IIQ6Q", number, architecture or MACHINES[machine], 0, *given)
    at, accumulator = 0, 0
    while True:
        operation, yes, no, value = struct.unpack_from("=HBBI", code, 8 * at)
        at += 1
        if operation == 0x06:
            return int(value)
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, value)
        elif operation == 0x54:
            accumulator &= value
        else:
            holds = {0x15: accumulator == value, 0x45: accumulator & value != 0}[operation]
            at += yes if holds else no


@pytest.mark.parametrize("machine", MACHINES)
def test_what_would_hold_memory_that_nobody_counts_is_refused(machine: str) -> None:
    """Shared memory, descriptors of memory, queues, namespaces; also behind flags and other numbers."""

    def asked(name: str, *arguments: int) -> int:
        return verdict(machine, NUMBERS[name][list(MACHINES).index(machine)], *arguments)

    free = {"read", "execve", "clone", "mmap", "clone3"}
    assert {name for name in NUMBERS if asked(name) == EPERM} == set(NUMBERS) - free
    assert asked("read") == asked("execve") == ALLOW
    assert asked("clone3") == ENOSYS
    assert asked("clone", 0x11) == ALLOW
    assert asked("clone", 0x10000011) == EPERM
    flags = {0x02: ALLOW, 0x01: ALLOW, 0x22: ALLOW, 0x21: EPERM, 0x23: EPERM, 0x40022: EPERM, 0x20022: ALLOW}
    assert {given: asked("mmap", 0, 4096, 3, given) for given in flags} == flags
    assert verdict(machine, 0x4000_0000 | 9) == KILL
    assert verdict(machine, 0, architecture=0x40000003) == KILL  # i386


def test_there_is_no_filter_for_a_machine_whose_numbers_are_not_known() -> None:
    """Rather none than one of other calls."""
    assert program("riscv64") is None
