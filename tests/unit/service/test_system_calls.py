"""The unit's filter of system calls lets through what the daemon does, and stops what it never should do."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed (package systemd)"
)

UNIT = Path(__file__).parents[3] / "systemd" / "whyidled.service"
# By `strace -f -c` of a daemon that loads, discovers, reads stacks, records, serves metrics and reloads.
USED = set(
    """
    accept4 access arch_prctl bind bpf brk capget capset chdir chmod clock_gettime clock_nanosleep
    clone3 close close_range connect dup2 epoll_create1 epoll_ctl epoll_pwait eventfd2 execve
    faccessat2 fchmod fcntl flock ftruncate futex getcwd getdents64 geteuid getpeername getpid
    getrandom getpriority getsockname getsockopt gettid ioctl kill listen lseek madvise mkdir mmap
    mprotect mremap munmap newfstatat openat perf_event_open pipe2 poll prctl pread64 prlimit64
    pwrite64 read readlink readlinkat recvfrom recvmsg rmdir rseq rt_sigaction rt_sigprocmask
    rt_sigreturn sendmsg sendto set_robust_list set_tid_address setfsgid setfsuid setitimer
    setpriority setsockopt socket socketpair statfs sysinfo umask uname unlink unlinkat vfork wait4
    write
    """.split()
)
# The rings are denied: what goes through them would not be filtered, and the event loop does without.
NEVER = set(
    """
    io_uring_setup io_uring_enter io_uring_register ptrace mount umount2 pivot_root init_module finit_module
    delete_module kexec_load reboot swapon settimeofday clock_settime iopl ioperm process_vm_writev
    """.split()
)


def members(name: str) -> set[str]:
    """The system calls of a set, and of the sets in it."""
    if not name.startswith("@"):
        return {name}
    done = subprocess.run(
        ["systemd-analyze", "syscall-filter", "--no-pager", name], capture_output=True, text=True, check=True
    )
    lines = [line.strip() for line in done.stdout.splitlines() if line.startswith("    ")]
    return {call for line in lines if not line.startswith("#") for call in members(line)}


def allowed() -> set[str]:
    """As systemd reads the unit: the first line allows, a ``~`` takes away."""
    found: set[str] = set()
    for line in re.findall("^SystemCallFilter=(.*)$", UNIT.read_text(), re.MULTILINE):
        named = {call for word in line.removeprefix("~").split() for call in members(word)}
        found = found - named if line.startswith("~") else found | named
    return found


def test_what_the_daemon_calls_is_allowed() -> None:
    """No call that it was seen to make is missing."""
    assert set() == USED - allowed()


def test_what_it_never_should_do_is_not() -> None:
    """Neither ptrace nor writing another's memory by call, nor mounts, modules, clocks, rings."""
    assert set() == NEVER & allowed()
