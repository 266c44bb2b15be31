"""What every test may ask for: real eBPF, or a reason why not."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

from harness import PATIENCE
from whyidle_probes import loader

# A machine that is busy with something else is no mistake of what is tested.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

REQUIRED = {word for word in os.environ.get("WHYIDLE_REQUIRE", "").split(",") if word}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = why_no_bpf()
    for item in items:
        if reason and item.get_closest_marker("bpf"):
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_sessionstart(session: pytest.Session) -> None:
    loader.TIMEOUT_S *= PATIENCE
    # As in the Makefile: what the daemons of these tests keep is not where a service of this host looks.
    os.environ.setdefault("WHYIDLE_CACHE", str(Path.home() / ".cache/whyidle"))
    # A shell that runs the suite in the background makes it, and every program it starts, ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    reason = why_no_bpf()
    if reason and "bpf" in REQUIRED:
        pytest.exit(f"WHYIDLE_REQUIRE=bpf, but {reason}", returncode=1)


def why_no_bpf() -> str | None:
    """``None`` when kernel probes can run here."""
    if os.geteuid() != 0:
        return "kernel probes need root"
    if not Path("/sys/kernel/btf/vmlinux").exists():
        return "this kernel has no BTF"
    if not Path("/usr/lib/python3/dist-packages/bcc").is_dir():
        return "python3-bpfcc is not installed"
    return None
