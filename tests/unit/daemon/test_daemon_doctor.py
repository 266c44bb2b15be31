"""What the doctor says of a kernel, by what it can do and never by its number."""

from __future__ import annotations

from pathlib import Path

import pytest

from whyidle_daemon import doctor
from whyidle_probes.loader import LoaderError, Probes


def probes_check(monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...], throttling: str) -> doctor.Check:
    """The check of a kernel whose probes load so."""
    monkeypatch.setattr(doctor, "load_probes", lambda: Probes({}, missing, False, throttling))
    return doctor._probes()


def test_what_an_old_kernel_loses_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each thing that is missing with what is then not known."""
    check = probes_check(monkeypatch, ("sk_data_ready", "sock_send_length", "unix_peer"), "queue")
    assert check.status == "warning"
    assert "lacks sk_data_ready, sock_send_length, unix_peer" in check.detail
    assert "run queues say" in check.detail
    assert check.fix is not None
    for lost in ("what woke a poll of several", "no names", "a wait on a Unix socket"):
        assert lost in check.fix
    assert doctor.can_run([check])


def test_a_kernel_that_has_all_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    check = probes_check(monkeypatch, (), "task")
    assert (check.status, check.fix) == ("ok", None)


def test_a_kernel_that_cannot_do_it_is_said_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the main job cannot run."""

    def refuse() -> Probes:
        raise LoaderError("too_old", "this kernel's BPF has no ring buffers", "run Linux 5.10 or later")

    monkeypatch.setattr(doctor, "load_probes", refuse)
    check = doctor._probes()
    assert (check.status, check.detail) == ("missing", "this kernel's BPF has no ring buffers")
    assert check.fix == "run Linux 5.10 or later"
    assert not doctor.can_run([check])


def test_the_number_of_a_kernel_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.platform, "release", lambda: "3.10.0-1160.el7")
    assert doctor._kernel().status == "ok"


@pytest.mark.parametrize(
    ("types", "words"),
    [
        (b"\0bpf_link\0bpf_uprobe_multi_link\0", "by links"),
        (b"\0bpf_link\0my_bpf_uprobe_multi_link\0", "by perf events"),
    ],
)
def test_how_uprobes_are_attached(tmp_path: Path, types: bytes, words: str) -> None:
    """By links where the kernel's types have them; else with a capability more, which is said."""
    assert doctor._uprobes(tmp_path).status == "missing"
    (tmp_path / "bus/event_source/devices/uprobe").mkdir(parents=True)
    (tmp_path / "bus/event_source/devices/uprobe/type").write_text("9\n")
    (tmp_path / "kernel/btf").mkdir(parents=True)
    (tmp_path / "kernel/btf/vmlinux").write_bytes(types)
    check = doctor._uprobes(tmp_path)
    assert check.status == "ok"
    assert words in check.detail
    assert ("CAP_SYS_ADMIN" in check.detail) == (words == "by perf events")
