"""What the doctor says of a kernel, by what it can do and never by its number."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from whyidle_daemon import doctor
from whyidle_probes.loader import LoaderError, Probes, load_probes
from whyidle_wire.codec import encode
from whyidle_wire.records import PROTOCOL, Failure, Record, Welcome


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


def test_a_machine_whose_registers_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before anything is tried."""
    monkeypatch.setattr(doctor.platform, "machine", lambda: "aarch64")
    check = doctor._kernel()
    assert check.status == "missing"
    assert not doctor.can_run([check])
    with pytest.raises(LoaderError, match="aarch64") as caught:
        load_probes()
    assert caught.value.code == "machine"


def serve(path: Path, answer: Record) -> threading.Thread:
    """A daemon for one client that says so much and no more."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(1)

    def once() -> None:
        with listener, listener.accept()[0] as client:
            client.recv(4096)
            client.sendall(encode(answer))

    thread = threading.Thread(target=once)
    thread.start()
    return thread


def test_the_service_that_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its version is told, and a user who is not root lacks nothing then."""
    path = tmp_path / "s"
    thread = serve(path, Welcome(PROTOCOL, doctor.VERSION, 1, {}))
    check = doctor._service(path)
    thread.join()
    assert (check.status, check.detail) == ("ok", f"version {doctor.VERSION} answers")
    lacking = doctor.Check("probes", "missing", "", None, doctor.MAIN_JOB)
    for user, served in ((1000, True), (0, False)):
        monkeypatch.setattr("os.geteuid", lambda user=user: user)
        assert doctor.is_served([lacking, check]) is doctor.can_run([lacking, check]) is served


def test_the_service_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not installed, installed and silent, or of another protocol: each with what to do."""
    unit, path = tmp_path / "unit", tmp_path / "s"
    monkeypatch.setattr(doctor, "UNIT", unit)
    assert "whyidle install" in (doctor._service(path).fix or "")
    unit.touch()
    assert "systemctl status" in (doctor._service(path).fix or "")
    thread = serve(path, Failure(0, "protocol", "another protocol", "install the same"))
    check = doctor._service(path)
    thread.join()
    assert (check.status, check.detail, check.fix) == ("warning", "another protocol", "install the same")


def test_the_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A mistake is told; none, and no file, are good."""
    path = tmp_path / "config.toml"
    monkeypatch.setattr(doctor.config, "DEFAULT_PATH", path)
    assert doctor._configuration().status == "ok"
    path.write_text("[acess]\n")
    check = doctor._configuration()
    assert check.status == "warning"
    assert "did you mean 'access'?" in check.detail
