"""Limits are found in both versions of control groups, up to the root."""

from __future__ import annotations

from pathlib import Path

import pytest

from whyidle_daemon.limits import Limit, Limits
from whyidle_daemon.proc import Proc


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "proc" / "7").mkdir(parents=True)
    (tmp_path / "meminfo").write_text(
        "MemTotal: 1000 kB\nMemAvailable: 400 kB\nSwapTotal: 100 kB\nSwapFree: 90 kB\n"
    )
    return tmp_path


def limits(root: Path) -> Limits:
    return Limits(Proc(root / "proc"), root / "cg", root / "meminfo")


def group(path: Path, files: dict[str, str]) -> None:
    path.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (path / name).write_text(content + "\n")


def test_the_host(root: Path) -> None:
    """RAM and swap; what is available counts as free."""
    assert limits(root).host() == Limit("host", "", 610 * 1024, 1100 * 1024)


def test_v2_walks_up(root: Path) -> None:
    """Its own limit and its parent's; a group without one is skipped, the page cache does not count."""
    (root / "proc/7/cgroup").write_text("0::/a/b/c\n")
    cache = "anon 5\ninactive_file 30\nactive_file 20"
    group(root / "cg", {"cgroup.controllers": "memory"})
    group(root / "cg/a", {"memory.max": "1000", "memory.current": "500", "memory.stat": cache})
    group(root / "cg/a/b", {"memory.max": "max", "memory.current": "400", "memory.stat": cache})
    group(root / "cg/a/b/c", {"memory.max": "600", "memory.current": "300", "memory.stat": cache})
    assert limits(root).cgroups(7) == [Limit("cgroup", "/a/b/c", 250, 600), Limit("cgroup", "/a", 450, 1000)]


def test_v1_uses_the_memory_controller(root: Path) -> None:
    """Its own hierarchy and names; no limit is a huge number there."""
    (root / "proc/7/cgroup").write_text("5:cpu,cpuacct:/other\n4:memory:/a/b\n0::/\n")
    stat = "inactive_file 1\ntotal_inactive_file 30\ntotal_active_file 20"
    files = {"memory.usage_in_bytes": "500", "memory.stat": stat}
    group(root / "cg/memory/a", files | {"memory.limit_in_bytes": "9223372036854771712"})
    group(root / "cg/memory/a/b", files | {"memory.limit_in_bytes": "800"})
    assert limits(root).cgroups(7) == [Limit("cgroup", "/a/b", 450, 800)]


@pytest.mark.parametrize("text", ["", "0::/../x\n", "nonsense", "4:memory:/gone\n0::/gone\n"])
def test_what_cannot_be_read_is_no_limit(root: Path, text: str) -> None:
    (root / "proc/7/cgroup").write_text(text)
    (root / "meminfo").write_text("MemTotal: x\n")
    assert limits(root).cgroups(7) == []
    assert limits(root).host() is None


def test_what_several_targets_share_is_read_once(root: Path) -> None:
    """Within 50 ms a group and the host are what they were; then they are read again."""
    now = 0.0
    reader = Limits(Proc(root / "proc"), root / "cg", root / "meminfo", lambda: now)
    files = {"memory.max": "1000", "memory.current": "500", "memory.stat": "anon 5"}
    group(root / "cg", {"cgroup.controllers": "memory"})
    group(root / "cg/a", files)
    (root / "proc" / "8").mkdir()
    for pid in (7, 8):
        (root / f"proc/{pid}/cgroup").write_text("0::/a\n")
    assert [limit.used_bytes for limit in reader.cgroups(7)] == [500]
    host = reader.host()
    group(root / "cg/a", files | {"memory.current": "600"})
    (root / "meminfo").write_text("MemTotal: 1000 kB\nMemAvailable: 300 kB\n")
    now = 0.04
    assert [limit.used_bytes for limit in reader.cgroups(8)] == [500]
    assert reader.host() == host
    now = 0.06
    assert [limit.used_bytes for limit in reader.cgroups(8)] == [600]
    assert reader.host() == Limit("host", "", 700 * 1024, 1000 * 1024)
