"""README.md's table of kernels is what was measured, and what is measured exists."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from . import results, table
from .initramfs import in_order
from .machine import emulator_failed
from .packages import SERIES, Package, choose, numbers
from .rows import ROWS, chosen, row_of

ROOT = Path(__file__).resolve().parents[2]
FIRST = "tests/integration/test_loader.py::test_everything_loads_and_closing_removes_it"
NETWORK = "tests/integration/test_waits.py::test_network_wait_names_its_peer"


def test_the_readme_says_what_was_measured() -> None:
    """The table is made of the committed result, letter by letter."""
    assert table.written() == table.table(results.load())


def test_the_result_is_whole() -> None:
    """At least four kernels, 5.10 among them, each with every row."""
    found = results.load()
    assert found["schema"] == results.SCHEMA
    releases = [kernel["release"] for kernel in found["kernels"]]
    assert len(set(releases)) >= 4
    assert releases == sorted(releases, key=numbers)
    assert releases[0].startswith("5.10.")
    for kernel in found["kernels"]:
        assert set(kernel["rows"]) == {row.name for row in ROWS}


def test_every_row_has_tests_that_exist() -> None:
    """A test that was renamed would otherwise leave its row empty."""
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)
    for test in chosen([]):
        file, function = test.split("[")[0].split("::")
        assert re.search(rf"^def {function}\(", (ROOT / file).read_text(), re.M), test
        assert row_of(test) in names


def test_a_row_takes_its_parameters_and_no_other_test() -> None:
    assert row_of(NETWORK + "[127.0.0.1-2-s.recv(1)-None-calls0]") == "network"
    assert row_of(NETWORK + "_too") is None


XML = """<testsuites><testsuite>
<testcase file="tests/integration/test_loader.py" name="test_everything_loads_and_closing_removes_it"/>
<testcase file="tests/integration/test_loader.py" name="test_sigkill_leaves_nothing_attached"/>
<testcase file="tests/integration/test_waits.py" name="test_network_wait_names_its_peer[a]"/>
<testcase file="tests/integration/test_waits.py" name="test_network_wait_names_its_peer[b]">
  <failure/></testcase>
<testcase file="tests/integration/test_waits.py" name="test_the_socket_that_woke_a_selector_is_known[a]">
  <skipped message="this kernel has no sk_data_ready (6.3)"/></testcase>
<testcase file="tests/integration/test_waits.py" name="test_waiting_for_a_disk"><error/></testcase>
</testsuite></testsuites>"""
CHECKS = [
    {"name": "probes", "status": "ok", "detail": "23 programs load", "fix": None, "needed_for": "-"},
    {"name": "uprobes", "status": "ok", "detail": "attached by perf events", "fix": None, "needed_for": "-"},
]


@pytest.fixture
def one(tmp_path: Path) -> dict[str, Any]:
    """What a guest left behind, read."""
    (tmp_path / "tests.xml").write_text(XML)
    (tmp_path / "doctor.json").write_text(json.dumps({"checks": CHECKS, "can_run": True}))
    found = results.outcome(tmp_path)
    return {"release": "5.10.0-46-amd64", "suite": "bullseye-security", "date": "2026-01-02", **found}


def test_what_a_guest_found(one: dict[str, Any]) -> None:
    """Passed, failed and lacking are told apart, and a row without a test is not there."""
    assert one["rows"]["load"] == {"passed": 2, "failed": [], "lacks": []}
    assert one["rows"]["network"] == {"passed": 1, "failed": [NETWORK + "[b]"], "lacks": []}
    assert one["rows"]["woken"]["lacks"] == ["this kernel has no sk_data_ready (6.3)"]
    assert one["rows"]["disk"]["passed"] == 0
    assert len(one["rows"]["disk"]["failed"]) == 1
    assert "gil" not in one["rows"]


def test_a_test_of_no_row_is_an_error(tmp_path: Path, one: dict[str, Any]) -> None:
    text = (tmp_path / "tests.xml").read_text()
    (tmp_path / "tests.xml").write_text(text.replace("test_waiting_for_a_disk", "test_something_else"))
    with pytest.raises(ValueError, match="test_something_else"):
        results.outcome(tmp_path)


def test_how_it_looks(one: dict[str, Any]) -> None:
    """Cells say yes, no with a numbered reason, fails, or not run."""
    text = table.table({"command": "make kernels", "kernels": [one]})
    lines = text.splitlines()
    assert lines[0] == "| | 5.10 |"
    assert "| The probes load and attach; killed, they leave nothing | yes |" in lines
    assert "| Network waits with the peer, IPv4 and IPv6 | **fails** (1 of 2) |" in lines
    assert "| The peer that woke an event loop | no (1) |" in lines
    assert "| The GIL told from locks | not run |" in lines
    assert "| Uprobes attach by | perf events |" in lines
    assert "1. this kernel has no sk_data_ready (6.3)" in lines
    where = "5.10.0-46-amd64 (bullseye-security, 2026-01-02)"
    assert lines[-1] == f"By `make kernels`, on Debian's kernels {where}."


def test_a_kernel_that_ran_again_takes_its_own_place(one: dict[str, Any]) -> None:
    """By series: a newer release of the same takes it too; the oldest comes first."""
    later = {"release": "6.12.9+deb13-amd64"}
    known = results.merged(results.merged([], later), one)
    assert known == [one, later]
    newer = {"release": "5.10.0-50-amd64"}
    assert results.merged(known, newer) == [newer, later]


def test_the_block_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("a\n<!-- kernels: begin -->\nold\n<!-- kernels: end -->\nb\n")
    table.write("new \\1", readme)
    assert readme.read_text() == "a\n<!-- kernels: begin -->\nnew \\1\n<!-- kernels: end -->\nb\n"
    assert table.written(readme) == "new \\1"
    readme.write_text("<!-- kernels: begin -->\n<!-- kernels: end -->\n")
    table.write("first", readme)
    assert table.written(readme) == "first"
    readme.write_text("nothing")
    with pytest.raises(ValueError, match="no block"):
        table.write("new", readme)


def test_the_newest_of_each_series_is_chosen() -> None:
    """By number and not by letter; what cannot be had is said; the newest of all comes last, once."""
    versions = ["5.10.9-1", "5.10.46-1", "6.1.2-1", "6.12.9-1", "6.12.10-1", "7.3.4-1~bpo13+1"]
    kernels = [Package(f"linux-image-{v}", v, v, "suite") for v in sorted(versions, key=numbers)]
    said: list[str] = []
    chosen = [package.version for package in choose(kernels, said.append)]
    assert chosen == ["5.10.46-1", "6.1.2-1", "6.12.10-1", "7.3.4-1~bpo13+1"]
    assert len(said) == 1
    assert "6.18" in said[0]
    assert SERIES[-1] == ""


def test_modules_are_loaded_after_what_they_need(tmp_path: Path) -> None:
    """As depmod lists it: a module, then what it needs, the deepest last."""
    (tmp_path / "modules.dep").write_text(
        "kernel/fs/ext4/ext4.ko.xz: kernel/fs/jbd2/jbd2.ko.xz kernel/lib/crc16.ko.xz\n"
        "kernel/drivers/virtio/virtio_pci.ko.xz: kernel/drivers/virtio_ring.ko.xz\n"
        "kernel/net/9p/9pnet_virtio.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/drivers/virtio_ring.ko.xz\n"
        "kernel/sound/snd.ko.xz:\n"
    )
    order = [path.name.removesuffix(".ko.xz") for path in in_order(tmp_path)]
    assert order == ["virtio_ring", "virtio_pci", "9pnet", "9pnet_virtio", "crc16", "jbd2", "ext4"]


def test_whose_failure_it_was(tmp_path: Path) -> None:
    """A breakpoint that the guest's kernel had removed is the emulator's; all else is not."""
    assert not emulator_failed(tmp_path)
    console = tmp_path / "console"
    console.write_bytes(b"[    1.0] BUG: kernel NULL pointer dereference\n")
    assert not emulator_failed(tmp_path)
    console.write_bytes(b"\xff[  138.362494] Oops: int3: 0000 [#1] SMP NOPTI\n")
    assert emulator_failed(tmp_path)
