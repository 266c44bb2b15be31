"""What the programs are told of a kernel, by its types alone: kernels as they were, made of what they had."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

CHILD = Path(__file__).resolve().parents[3] / "probes/whyidle_probes/loader_child"


class Types:
    """Stands in for ``KernelTypes``: members as ``struct.member``, helpers, functions."""

    def __init__(self, members: str, helpers: str, functions: str, switch_arguments: int) -> None:
        self._members, self._helpers = set(members.split()), set(helpers.split())
        self._functions, self._switch = set(functions.split()), switch_arguments

    def member_bits(self, struct: str, member: str) -> tuple[int, int] | None:
        return (1203, 1) if f"{struct}.{member}" in self._members else None

    def has_helper(self, name: str) -> bool:
        return name in self._helpers

    def id_of(self, name: str, _kind: int) -> int:
        return int(name in self._functions)

    def tracepoint_arguments(self, _name: str) -> int:
        return self._switch


COMMON = "task_struct.in_iowait unix_sock.peer socket_alloc.vfs_inode cfs_rq.throttle_count "
BY_TASK = COMMON + "cfs_rq.throttled_clock_task_time "
BY_PELT = COMMON + "cfs_rq.throttled_clock_pelt_time "
LINUX_4_18 = Types("task_struct.state task_struct.in_iowait", "", "", 3)
LINUX_5_10 = Types(BY_TASK + "task_struct.stack_vm_area", "ringbuf_reserve", "bpf_iter_task", 3)
LINUX_5_15 = Types(BY_TASK + "task_struct.__state", "ringbuf_reserve task_pt_regs", "bpf_iter_task", 3)
LINUX_6_18 = Types(
    BY_PELT + "task_struct.__state task_struct.throttled sched_entity.sched_delayed",
    "ringbuf_reserve task_pt_regs",
    "bpf_iter_task",
    4,
)
LINUX_6_1 = Types(BY_PELT + "task_struct.__state", "ringbuf_reserve task_pt_regs", "bpf_iter_task", 4)
NO_BANDWIDTH = Types("task_struct.__state task_struct.in_iowait", "ringbuf_reserve", "bpf_iter_task", 4)


@pytest.fixture
def features(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The loader child's module, which finds its neighbours as the child does."""
    monkeypatch.syspath_prepend(str(CHILD))
    for name in ("features", "btf"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import features  # noqa: PLC0415 (only where the child would find it)

    yield features
    for name in ("features", "btf"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("types", "names"),
    [
        (LINUX_5_10, {"WI_STACK_AREA", "WI_QUEUE_THROTTLED", "WI_UNIX_PEER"}),
        (LINUX_5_15, {"WI_TASK_PT_REGS", "WI_QUEUE_THROTTLED", "WI_UNIX_PEER"}),
        (LINUX_6_1, {"WI_TASK_PT_REGS", "WI_QUEUE_THROTTLED", "WI_UNIX_PEER", "WI_SWITCH_HAS_STATE"}),
        (
            LINUX_6_18,
            {
                "WI_TASK_PT_REGS",
                "WI_TASK_THROTTLED",
                "WI_UNIX_PEER",
                "WI_SWITCH_HAS_STATE",
                "WI_SCHED_DELAYED",
            },
        ),
        (NO_BANDWIDTH, {"WI_SWITCH_HAS_STATE"}),
    ],
    ids=["5.10", "5.15", "6.1", "6.18", "no bandwidth control, no Unix sockets built in"],
)
def test_the_programs_are_told_what_is_there(features: Any, types: Types, names: set[str]) -> None:
    macros = features.features(types)
    assert set(macros) - names == {"WI_TASK_STATE", "WI_IOWAIT_BYTE", "WI_IOWAIT_MASK"}
    assert names <= set(macros)
    assert (macros["WI_IOWAIT_BYTE"], macros["WI_IOWAIT_MASK"]) == ("150", "8")
    assert macros["WI_TASK_STATE"] == ("state" if types is LINUX_5_10 else "__state")


def test_the_sum_of_throttled_time_has_two_names(features: Any) -> None:
    """5.19 renamed it."""
    assert features.features(LINUX_5_15)["WI_QUEUE_THROTTLED"] == "throttled_clock_task_time"
    assert features.features(LINUX_6_1)["WI_QUEUE_THROTTLED"] == "throttled_clock_pelt_time"


def test_a_feature_can_be_left_unused(features: Any) -> None:
    """What an older kernel gets can be tried on a newer one."""
    macros = features.features(LINUX_6_18, ["WI_TASK_THROTTLED"])
    assert "WI_TASK_THROTTLED" not in macros
    assert macros["WI_QUEUE_THROTTLED"] == "throttled_clock_pelt_time"


def test_what_is_lost_is_named(features: Any) -> None:
    assert features.lost(features.features(LINUX_5_10)) == []
    assert features.lost(features.features(LINUX_6_18)) == []
    assert features.lost(features.features(NO_BANDWIDTH)) == ["unix_peer"]


def test_what_cannot_be_done_without_is_named(features: Any) -> None:
    assert features.too_old(LINUX_5_10) == ""
    assert features.too_old(LINUX_4_18) == "ring buffers and iterators over tasks"
