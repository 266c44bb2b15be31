"""Each capability that the unit grants is needed for what it says there, and together they suffice."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from test_access import ALICE, BOB, GROUP, ask, client_of, program

from harness import wait_until
from harness_cli import BIN, Daemon
from whyidle_daemon import privileges
from whyidle_wire.records import (
    Failure,
    Observe,
    Observing,
    StallEvent,
    Status,
    StatusReply,
    Subscribe,
    Subscribed,
)

pytestmark = pytest.mark.bpf

UNIT = Path(__file__).parents[2] / "systemd" / "whyidled.service"
GRANTED = set(" ".join(re.findall("^CapabilityBoundingSet=(.*)$", UNIT.read_text(), re.MULTILINE)).split())
CONFIG = """
[discovery]
enabled = false
[access]
group = "games"
[daemon]
stall_threshold_s = 0.1
"""
HANG = """
import mmap, os, socket
for path in sys.argv[1:]:
    with open(path, "rb") as file:
        code = mmap.PROT_READ | mmap.PROT_EXEC
        globals()[path] = mmap.mmap(file.fileno(), 0, prot=code, flags=mmap.MAP_PRIVATE)
s = socket.create_server(("127.0.0.1", 0))
c = socket.create_connection(s.getsockname())
print("mapped", flush=True)
def hang():
    c.recv(1)
hang()
"""
LIBRARY = "int llama_decode(void *c) { return 0; } int llama_encode(void *c) { return 0; }"


class Scene(NamedTuple):
    """Another user's program that hangs, and maps two engine libraries: a private one and a deleted one."""

    pid: int
    folder: Path


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    folder = Path(tempfile.mkdtemp(prefix="whyidle-test-"))
    folder.chmod(0o755)
    private, deleted, his = folder / "libllama-private.so", folder / "libllama-deleted.so", folder / "his"
    for path in (private, deleted):
        subprocess.run(["cc", "-shared", "-x", "c", "-o", path, "-"], input=LIBRARY.encode(), check=True)
        os.chown(path, BOB, BOB)
    private.chmod(0o600)
    his.mkdir()
    os.chown(his, ALICE, GROUP)
    with program(BOB, HANG, str(private), str(deleted)) as running:
        assert running.stdout
        assert running.stdout.readline() == "mapped\n"
        deleted.unlink()
        yield Scene(running.pid, folder)
    shutil.rmtree(folder)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory for the daemon's socket that everybody may enter, unlike pytest's own."""
    path = Path(tempfile.mkdtemp(prefix="whyidle-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def start(folder: Path, capabilities: set[str], wait: bool = True) -> Daemon:
    names = ",".join("+" + name.removeprefix("CAP_").lower() for name in sorted(capabilities))
    # Its group, as in the unit: without CAP_CHOWN it could not give the socket to another one.
    prefix = [
        "setpriv",
        f"--regid={GROUP}",
        "--clear-groups",
        f"--bounding-set=-all,{names}",
        "--inh-caps=-all",
    ]
    return Daemon(folder, wait=wait, config=CONFIG, prefix=prefix)


def stack_is_read(daemon: Daemon, scene: Scene) -> bool:
    """The function in which another user's program hangs."""
    with client_of(daemon, 0, 0) as client:
        ask(client, Subscribe(1), Subscribed)
        ask(client, Observe(2, scene.pid, ("x",), 0.1), Observing)
        for _ in range(40):
            record = client.receive(5)
            if isinstance(record, StallEvent) and record.pid == scene.pid:
                return record.function == "hang"
        return False


def library_is_probed(word: str) -> Callable[[Daemon, Scene], bool]:
    def probed(daemon: Daemon, scene: Scene) -> bool:
        with client_of(daemon, 0, 0) as client:
            ask(client, Observe(1, scene.pid, ("x",), 0.0), Observing)
            libraries = ask(client, Status(2), StatusReply).status["engine_libraries"]
            return any(word in path for path in libraries)

    return probed


def member_records(daemon: Daemon, scene: Scene) -> bool:
    """A member of the group gets a recording where only he may write."""
    path = scene.folder / "his" / f"{os.urandom(4).hex()}.rec"
    with client_of(daemon, ALICE, ALICE, (GROUP,)) as client:
        answer = ask(client, Observe(1, scene.pid, ("x",), 0.0, str(path)), Observing)
        return not isinstance(answer, Failure) and (path.stat().st_uid, path.stat().st_gid) == (ALICE, ALICE)


WORKS: dict[str, Callable[[Daemon, Scene], bool]] = {
    "CAP_SYS_PTRACE": stack_is_read,
    "CAP_DAC_READ_SEARCH": library_is_probed("private"),
    "CAP_CHECKPOINT_RESTORE": library_is_probed("deleted"),
    "CAP_SETUID": member_records,
    "CAP_SETGID": member_records,
}


def test_what_the_unit_grants_is_enough(scene: Scene, folder: Path) -> None:
    """With exactly these everything works, and what is not needed afterwards is given up for good."""
    with start(folder, GRANTED) as daemon:
        status = Path(f"/proc/{daemon.process.pid}/status").read_text()
        for word in ("CapEff", "CapPrm", "CapBnd"):
            found = re.search(rf"^{word}:\s*([0-9a-f]+)$", status, re.MULTILINE)
            assert found
            kept = {name for name, bit in privileges.NAMES.items() if int(found[1], 16) >> bit & 1}
            assert kept == set(privileges.KEPT), word
            assert int(found[1], 16).bit_count() == len(kept)
        for name, works in WORKS.items():
            assert works(daemon, scene), f"{name}: {daemon.said()}"


@pytest.mark.parametrize("without", sorted(WORKS))
def test_without_one_what_it_is_for_does_not_work(scene: Scene, folder: Path, without: str) -> None:
    """The reason that the unit gives for a capability is a true one, and the daemon lives without it."""
    with start(folder, GRANTED - {without}) as daemon:
        assert not WORKS[without](daemon, scene)
        assert daemon.process.poll() is None


@pytest.mark.parametrize("without", ["CAP_BPF", "CAP_PERFMON"])
def test_without_these_nothing_loads(folder: Path, without: str) -> None:
    """It says what it lacks, and ends with the status that systemd does not try again after."""
    daemon = start(folder, GRANTED - {without}, wait=False)
    assert daemon.process.wait(timeout=60) == 3
    assert without in daemon.said()
    assert "Traceback" not in daemon.said()


def test_without_setpcap_the_rest_cannot_be_dropped_for_good(folder: Path) -> None:
    """They are given up, and a program that it executed could have them again."""
    extra = "CAP_SYS_ADMIN"  # as on a kernel before 6.6, where the daemon is given it
    with start(folder, GRANTED - {"CAP_SETPCAP"} | {extra}) as daemon:
        status = Path(f"/proc/{daemon.process.pid}/status").read_text()
        (bounding,) = re.findall(r"^CapBnd:\s*([0-9a-f]+)$", status, re.MULTILINE)
        (permitted,) = re.findall(r"^CapPrm:\s*([0-9a-f]+)$", status, re.MULTILINE)
        bit = 1 << privileges.NAMES[extra]
        assert int(bounding, 16) & bit
        assert not int(permitted, 16) & bit


def test_an_agent_is_explained_with_these_alone(folder: Path) -> None:
    """The main job under the unit's capabilities: attach to a program of another user, get its line."""
    # So long that it never wakes within a reading, which would rightly be counted as lost.
    code = "import time\ndef nap():\n    time.sleep(3600)\nnap()"
    with program(BOB, code) as running, start(folder, GRANTED) as daemon:
        done = subprocess.run(
            [BIN / "whyidle", "attach", str(running.pid), "--duration", "1", "--socket", daemon.socket],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "sleep" in done.stdout
        assert "Nothing was lost" in done.stdout
        assert sys.executable not in done.stdout
        wait_until(lambda: "Traceback" not in daemon.said(), "a log without mistakes")
