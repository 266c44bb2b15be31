"""What was lost, by the kernel's own counts."""

from __future__ import annotations

import ctypes
import struct
from types import SimpleNamespace
from typing import Any, cast

import pytest

from whyidle_daemon import libbpf
from whyidle_daemon.costs import Costs
from whyidle_daemon.kernel import Kernel
from whyidle_probes.events import Stat


def test_a_fork_that_its_program_did_not_see_is_a_process_event_lost() -> None:
    """The kernel skips a program that it finds preempted on the same CPU, and only counts that."""
    stats = dict.fromkeys(Stat, 0)
    fake = SimpleNamespace(stats=lambda: dict(stats), run_ns=lambda: 0, skipped=lambda: misses)
    misses = 3
    costs = Costs(cast(Kernel, fake))
    assert costs.loss(0, 0).events_lost == 0
    misses = 5
    stats[Stat.CONTROL_LOST] = 1
    assert costs.loss(0, 0).control_lost == 3


@pytest.mark.parametrize(("size", "misses"), [(232, 7), (208, 0)], ids=["since 5.12", "5.10"])
def test_what_the_kernel_says_of_a_program(monkeypatch: pytest.MonkeyPatch, size: int, misses: int) -> None:
    """An older kernel writes less of it."""

    def get_info(_fd: int, info: Any, _size: Any) -> int:
        told = bytearray(size)
        told[64:71] = b"wi_fork"
        told[192:] = struct.pack("<QQQ", 11, 12, 7)[: size - 192].ljust(size - 192, b"\0")
        ctypes.memmove(info, bytes(told), size)
        return 0

    monkeypatch.setattr(libbpf, "library", lambda: SimpleNamespace(bpf_obj_get_info_by_fd=get_info))
    assert libbpf.program_info(5) == ("wi_fork", 11, 12, misses)


def test_while_nothing_is_counted_one_program_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the programs ran is counted of all of them or of none, and one of them runs all the time."""
    ran, asked = {1: 0, 2: 0}, []

    def program_info(descriptor: int) -> Any:
        asked.append(descriptor)
        return SimpleNamespace(run_ns=ran[descriptor])

    monkeypatch.setattr(libbpf, "program_info", program_info)
    kernel = Kernel.__new__(Kernel)
    descriptors = {"program:wi_sched_switch": 1, "program:wi_fork": 2, "map:threads": 3}
    kernel._probes = cast(Any, SimpleNamespace(descriptors=descriptors, program=lambda _: 1))
    kernel._often_ns, kernel._run_ns = -1, 0
    assert [kernel.run_ns(), kernel.run_ns(), kernel.run_ns()] == [0, 0, 0]
    assert asked.count(2) == 1
    ran |= {1: 50, 2: 7}
    assert [kernel.run_ns(), kernel.run_ns()] == [57, 57]
