"""How this kernel differs from others: what the programs are told, what is lost, what cannot be done without.

All of it is probed by what the kernel's own types say: a distribution's kernel may have what its number
denies.
"""

from __future__ import annotations

from typing import Any, Sequence

from btf import FUNC, BtfError


def features(types: Any, without: Sequence[str] = ()) -> dict[str, str]:
    """The WI_* macros that tell the programs how this kernel differs from others.

    ``without``: features that it is taken not to have: what older kernels get can be tried on this one.
    """
    found = {}
    # 5.14 renamed it (2f064a59a11f): unsigned int __state instead of long state.
    found["WI_TASK_STATE"] = "__state" if types.member_bits("task_struct", "__state") else "state"
    # 5.18 passes the state at the tracepoint (fa2c3254d7cf); before, it is read from the task.
    if types.tracepoint_arguments("sched_switch") >= 4:
        found["WI_SWITCH_HAS_STATE"] = "1"
    # 5.15 tells where a task's saved registers are (dd6e10fbd9fb); before, they are looked for.
    if types.has_helper("task_pt_regs") and "WI_TASK_PT_REGS" not in without:
        found["WI_TASK_PT_REGS"] = "1"
    elif types.member_bits("task_struct", "stack_vm_area"):
        found["WI_STACK_AREA"] = "1"
    found.update(_scheduler(types, without))
    # Both are absent where Unix sockets are a module.
    if types.member_bits("unix_sock", "peer") and types.member_bits("socket_alloc", "vfs_inode"):
        found["WI_UNIX_PEER"] = "1"
    if "WI_EPOLL_READY" not in without:
        found.update(_epoll(types))
    # 6.13 moved the task of a request behind its context (f03baece0805).
    if types.member_bits("io_kiocb", "task"):
        found["WI_URING_TASK"] = "1"
    elif types.member_bits("io_kiocb", "tctx") and types.member_bits("io_uring_task", "task"):
        found["WI_URING_CONTEXT"] = "1"
    iowait = types.member_bits("task_struct", "in_iowait")
    if iowait is None:
        raise BtfError("task_struct has no in_iowait")
    found["WI_IOWAIT_BYTE"] = str(iowait[0] // 8)
    found["WI_IOWAIT_MASK"] = str(1 << (iowait[0] % 8))
    return found


def _scheduler(types: Any, without: Sequence[str]) -> dict[str, str]:
    """How to tell who sleeps, and who may not run."""
    found = {}
    # 6.12 lets a thread that sleeps stay in the queue until it would have its turn (152e11f6df29).
    if types.member_bits("sched_entity", "sched_delayed"):
        found["WI_SCHED_DELAYED"] = "1"
    # 6.18 throttles single tasks on their way to user mode (e1fad12dcb66).
    if types.member_bits("task_struct", "throttled") and "WI_TASK_THROTTLED" not in without:
        found["WI_TASK_THROTTLED"] = "1"
    # Before, run queues say so, where the kernel has bandwidth control at all. 5.19 renamed the sum of the
    # time (64eaf50731ac).
    elif types.member_bits("cfs_rq", "throttle_count"):
        for name in ("throttled_clock_pelt_time", "throttled_clock_task_time"):
            if types.member_bits("cfs_rq", name):
                found["WI_QUEUE_THROTTLED"] = name
    return found


def _epoll(types: Any) -> dict[str, str]:
    """How to find out what is ready in an epoll set, as far as its shape is known."""
    # 7.3 renamed what an epoll set knows its members by.
    key = next((name for name in ("epoll_filefd", "epoll_key") if types.member_bits(name, "file")), None)
    ready = ("eventpoll", "rdllist"), ("epitem", "rdllink"), ("epitem", "ffd")
    if not key or not all(types.member_bits(*member) for member in ready):
        return {}
    overflow = {"WI_EPOLL_OVERFLOW": "1"} if types.member_bits("eventpoll", "ovflist") else {}
    return {"WI_EPOLL_READY": key, **overflow}


def lost(macros: dict[str, str]) -> list[str]:
    """Names of what the programs cannot tell on this kernel, although all of them load."""
    return [] if "WI_UNIX_PEER" in macros else ["unix_peer"]


def too_old(types: Any) -> str:
    """Which of the things that nothing here works without this kernel lacks; empty: none."""
    lacks = [] if types.has_helper("ringbuf_reserve") else ["ring buffers"]
    return " and ".join(lacks + ([] if types.id_of("bpf_iter_task", FUNC) else ["iterators over tasks"]))
