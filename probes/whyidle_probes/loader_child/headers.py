"""A directory that bcc takes for kernel headers, made from the running kernel's own types.

bcc compiles with ``-include DIR/include/linux/kconfig.h`` first; everything that its own helpers and our
programs need is declared there. The other files it asks for exist and are empty.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

from btf import ENUM, STRUCT, TYPEDEF, KernelTypes

_TYPEDEFS = (
    "__u8 __u16 __u32 __u64 __s8 __s16 __s32 __s64 __be16 __be32 __be64 __wsum size_t ssize_t bool "
    "u8 u16 u32 u64 s8 s16 s32 s64 uintptr_t"
).split()
_STRUCTS = (
    "task_struct signal_struct linux_binprm file path dentry inode qstr fdtable files_struct socket sock "
    "sock_common tcp_sock pt_regs unix_sock socket_alloc cfs_rq vm_struct "
    "eventpoll epitem epoll_filefd epoll_key list_head "
    "socket_wq wait_queue_head wait_queue_entry poll_wqueues io_kiocb io_uring_task"
).split()
_EMPTY = (
    "linux/types.h linux/bpf_common.h linux/log2.h linux/version.h uapi/linux/bpf.h uapi/linux/if_ether.h "
    "uapi/linux/if_packet.h uapi/linux/ptrace.h asm/page.h"
).split()

_PREAMBLE = """
#define __KERNEL__ 1
#define CONFIG_BPF_SYSCALL 1
#define CONFIG_{arch} 1
#define PAGE_SIZE {page_size}
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#define LINUX_VERSION_CODE {version}
#define BPF_NO_PRESERVE_ACCESS_INDEX
#define __aligned_u64 __u64 __attribute__((aligned(8)))
#define offsetof(type, member) __builtin_offsetof(type, member)
#define __always_inline inline __attribute__((always_inline))
#define barrier() asm volatile("" ::: "memory")
#define NULL ((void *)0)
#define true 1
#define false 0
"""

_ARCH = {"x86_64": "X86_64 1\n#define CONFIG_X86", "aarch64": "ARM64"}


def write_headers(directory: Path, types: KernelTypes) -> None:
    """Fill ``directory`` (an existing, private one)."""
    include = directory / "include"
    for name in _EMPTY:
        path = include / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    release = platform.release().split("-")[0].split(".")
    numbers = [int("".join(ch for ch in part if ch.isdigit()) or 0) for part in (*release, "0", "0")][:3]
    version = (numbers[0] << 16) + (numbers[1] << 8) + min(numbers[2], 255)
    arch = _ARCH.get(platform.machine(), platform.machine().upper())
    names = [(name, TYPEDEF) for name in _TYPEDEFS] + [(name, STRUCT) for name in _STRUCTS]
    text = _PREAMBLE.format(arch=arch, page_size=os.sysconf("SC_PAGE_SIZE"), version=version)
    declarations = types.declarations([*names, ("pid_type", ENUM)])
    kconfig = include / "linux" / "kconfig.h"
    kconfig.parent.mkdir(parents=True, exist_ok=True)
    kconfig.write_text(text + declarations)
