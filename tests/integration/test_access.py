"""Tries to break each promise of SECURITY.md about who may see what, on a real daemon."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import wait_until
from harness_cli import Daemon
from whyidle_wire.client import Client
from whyidle_wire.codec import encode
from whyidle_wire.errors import Refused, WireError
from whyidle_wire.records import (
    PROTOCOL,
    Failure,
    FindingEvent,
    Finish,
    Hello,
    ListTargets,
    Observe,
    Observing,
    ProcessEvent,
    Record,
    Report,
    SliceEvent,
    StallEvent,
    Status,
    StatusReply,
    Subscribe,
    Subscribed,
    TargetList,
)

pytestmark = pytest.mark.bpf

PYTHON = "/usr/bin/python3"
ALICE, BOB, GROUP = 61001, 61002, 60  # GROUP is games, which every Debian has
OPEN = """
[discovery]
enabled = false
[access]
group = "games"
others = "own"
connections_per_user = 3
observations_per_user = 2
requests_per_second = 50
[daemon]
stall_threshold_s = 0.1
"""
CLOSED = OPEN.replace('"own"', '"none"')


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory that everybody may enter, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="whyidle-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def daemon(place: Path) -> Iterator[Daemon]:
    (place / "open").mkdir()
    with Daemon(place / "open", config=OPEN) as running:
        yield running


@contextlib.contextmanager
def acting_as(uid: int, gid: int = 65534, others: tuple[int, ...] = ()) -> Iterator[None]:
    """What the kernel notes of us when we connect; ``others`` are the supplementary groups."""
    groups = os.getgroups()
    os.setgroups(others)
    os.setegid(gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


@contextlib.contextmanager
def client_of(daemon: Daemon, uid: int, gid: int = 65534, others: tuple[int, ...] = ()) -> Iterator[Client]:
    with acting_as(uid, gid, others):
        client = Client.connect(daemon.socket)
    with client:
        client.handshake("test")
        yield client


def raw_of(daemon: Daemon, uid: int) -> socket.socket:
    """A connection that has not said anything yet."""
    raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    raw.setblocking(True)
    with acting_as(uid):
        raw.connect(str(daemon.socket))
    raw.settimeout(30)
    return raw


@contextlib.contextmanager
def program(uid: int, code: str = "input()", *arguments: str, **more: Any) -> Iterator[subprocess.Popen[str]]:
    """A Python program of a user that has got as far as its first line."""
    source = "import sys; print('up', flush=True)\n" + code
    with subprocess.Popen(
        [PYTHON, "-c", source, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/",
        **({"user": uid, "group": uid, "extra_groups": []} | more),
    ) as running:  # fmt: skip
        assert running.stdout
        assert running.stdout.readline() == "up\n"
        try:
            yield running
        finally:
            running.kill()


def ask(client: Client, record: Record, kind: type[Record]) -> Any:
    """The answer of that kind, or the failure; what is streamed in between is left out."""
    client.send(record)
    while True:
        answer = client.receive(20)
        assert answer is not None
        if isinstance(answer, kind | Failure):
            return answer


def alive(daemon: Daemon) -> bool:
    with client_of(daemon, 0, 0) as client:
        return isinstance(ask(client, Status(7), StatusReply), StatusReply)


def test_others_are_kept_out_by_the_file_and_by_the_daemon(place: Path) -> None:
    """Socket 0660; and whoever gets past its mode is refused by his credentials."""
    (place / "closed").mkdir()
    with Daemon(place / "closed", config=CLOSED) as closed:
        about = closed.socket.stat()
        assert (about.st_uid, about.st_gid, about.st_mode & 0o777) == (0, GROUP, 0o660)
        with acting_as(ALICE), pytest.raises(PermissionError):
            Client.connect(closed.socket)
        for gid, others in ((GROUP, ()), (ALICE, (GROUP,))):
            with client_of(closed, ALICE, gid, others) as member:
                assert "clients" in ask(member, Status(1), StatusReply).status
        closed.socket.chmod(0o666)
        with acting_as(ALICE):
            stranger = Client.connect(closed.socket)
        with stranger, pytest.raises(Refused) as caught:
            stranger.handshake("x")
        assert caught.value.failure.code == "permission"


def test_own_processes_and_only_they_can_be_observed(daemon: Daemon) -> None:
    """Another user's, root's, and those among several that are not his: all are refused, the same way."""
    with (
        program(ALICE) as mine,
        program(BOB) as theirs,
        program(0) as roots,
        client_of(daemon, ALICE) as client,
    ):
        for number, pids in enumerate(
            [(theirs.pid,), (roots.pid,), (1,), (mine.pid, theirs.pid), (mine.pid, os.getpid())], 1
        ):
            answer = ask(client, Observe(number, pids[0], ("x",), 0.0, None, pids[1:]), Observing)
            assert isinstance(answer, Failure)
            assert answer.code == "permission", pids
            assert "not yours" in answer.message
        observing = ask(client, Observe(9, mine.pid, ("x",), 0.0), Observing)
        assert isinstance(observing, Observing)
        report = ask(client, Finish(observing.observation), Report).report
        assert [p["pid"] for p in report["processes"]] == [mine.pid]


def test_his_process_with_powers_that_he_lacks_is_not_his(daemon: Daemon) -> None:
    """One that acts as another user too, or holds a capability: the kernel would not let him look either."""
    mixed = f"import os; os.setresuid({ALICE}, 0, {ALICE}); print('mixed', flush=True); input()"
    powers = {"user": None, "group": None, "extra_groups": None}
    with program(0, mixed, **powers) as setuid, client_of(daemon, ALICE) as client:
        assert setuid.stdout
        assert setuid.stdout.readline() == "mixed\n"
        assert ask(client, Observe(1, setuid.pid, ("x",), 0.0), Observing).code == "permission"
    changed = f"import os; os.setresgid(0, {GROUP}, {GROUP}); os.setresuid({ALICE}, {ALICE}, {ALICE})"
    quiet = "import ctypes; ctypes.CDLL(None).prctl(4, 0)"  # PR_SET_DUMPABLE: it has something to hide
    for code, who in ((changed, powers), (quiet, {})):
        says = code + "; print('ready', flush=True); input()"
        with program(0 if who else ALICE, says, **who) as his, client_of(daemon, ALICE) as client:
            assert his.stdout
            assert his.stdout.readline() == "ready\n"
            assert ask(client, Observe(1, his.pid, ("x",), 0.0), Observing).code == "permission"
    capable = ["setpriv", f"--reuid={ALICE}", f"--regid={ALICE}", "--clear-groups",
               "--inh-caps=+net_raw", "--ambient-caps=+net_raw", "/bin/sleep", "60"]  # fmt: skip
    with subprocess.Popen(capable) as running:
        try:
            wait_until(lambda: Path(f"/proc/{running.pid}/comm").read_text() == "sleep\n", "it to be sleep")
            with client_of(daemon, ALICE) as client:
                assert ask(client, Observe(1, running.pid, ("x",), 0.0), Observing).code == "permission"
        finally:
            running.kill()


def test_nothing_of_anothers_observation_is_told(daemon: Daemon) -> None:
    """Not in the list, not in the status, not by subscribing to it, not by finishing it."""
    code = "import time\nwhile True: time.sleep(0.02)"
    with (
        program(BOB, code, "bobs-secret") as theirs,
        client_of(daemon, 0, 0) as root,
        client_of(daemon, ALICE) as alice,
        client_of(daemon, BOB) as bob,
    ):
        for client in (alice, bob, root):
            assert isinstance(ask(client, Subscribe(1, (), None, True), Subscribed), Subscribed)
        observing = ask(root, Observe(2, theirs.pid, ("x",), 0.0), Observing)
        for client in (root, bob):  # those who may see it do: what Alice does not get was there to be sent
            wait_until(lambda client=client: isinstance(client.receive(1), SliceEvent), "events for others")
        assert ask(alice, ListTargets(3), TargetList).targets == ()
        assert len(ask(root, ListTargets(3), TargetList).targets) == 1
        assert [t["pid"] for t in ask(bob, ListTargets(3), TargetList).targets] == [theirs.pid]
        assert set(ask(alice, Status(4), StatusReply).status) == {"version", "pid", "missing"}
        assert ask(alice, Finish(observing.observation), Report).code == "bad_request"
        streamed = []
        while (record := alice.receive(0)) is not None:
            streamed.append(record)
        assert not [
            r for r in streamed if isinstance(r, SliceEvent | StallEvent | ProcessEvent | FindingEvent)
        ]
        taken = ask(alice, Observe(5, theirs.pid, ("x",), 0.0), Observing)
        assert taken.code == "permission"  # and not "is being observed", which would tell that somebody does


def test_a_helper_of_another_user_in_his_tree_stays_hidden(daemon: Daemon, place: Path) -> None:
    """A set-user-ID child of his program: that it is there he sees, its command line and name he does not."""
    helper = place / "helper"
    shutil.copy("/bin/sleep", helper)
    helper.chmod(0o4755)
    # By standard input, as his own command line is his to see.
    code = "import subprocess\np = subprocess.Popen(input().split())\nprint('child', flush=True); p.wait()"
    with program(ALICE, code) as mine, client_of(daemon, ALICE) as client:
        assert mine.stdin
        assert mine.stdout
        mine.stdin.write(f"{helper} 61.75\n")
        mine.stdin.flush()
        mine.stdout.readline()
        observing = ask(client, Observe(1, mine.pid, ("x",), 0.0), Observing)
        assert observing.processes == 2
        report = ask(client, Finish(observing.observation), Report).report
        assert len(report["processes"]) == 2
        assert "61.75" not in json.dumps(report)
        assert str(helper) not in json.dumps(report)
        mine.kill()
        subprocess.run(["pkill", "-KILL", "-f", f"^{helper} 61.75$"], check=True)


def test_only_who_sees_all_may_record(daemon: Daemon, place: Path) -> None:
    """The daemon writes no file for whoever sees his own processes only."""
    with program(ALICE) as mine, client_of(daemon, ALICE) as client:
        answer = ask(client, Observe(1, mine.pid, ("x",), 0.0, str(place / "x.rec")), Observing)
        assert answer.code == "permission"
    assert not (place / "x.rec").exists()


def test_a_member_records_as_himself(daemon: Daemon, place: Path) -> None:
    """The group sees everything, and still writes nowhere where its members could not, nor over anything."""
    private, his = place / "roots", place / "his"
    private.mkdir(mode=0o755)
    his.mkdir()
    os.chown(his, ALICE, GROUP)
    (his / "link").symlink_to(private / "through")
    (his / "there").write_text("kept")
    with program(BOB) as target, client_of(daemon, ALICE, GROUP) as member:
        for number, path in enumerate([private / "x", his / "link", his / "there", Path("relative")], 1):
            answer = ask(member, Observe(number, target.pid, ("x",), 0.0, str(path)), Observing)
            assert isinstance(answer, Failure), path
        observing = ask(member, Observe(9, target.pid, ("x",), 0.0, str(his / "a.rec")), Observing)
        ask(member, Finish(observing.observation), Report)
    assert ((his / "a.rec").stat().st_uid, (his / "a.rec").stat().st_mode & 0o777) == (ALICE, 0o600)
    assert list(private.iterdir()) == []
    assert (his / "there").read_text() == "kept"


def test_one_user_cannot_take_the_daemon_from_the_others(daemon: Daemon) -> None:
    """Connections and observations of a user are counted; root and other users still get theirs."""
    with contextlib.ExitStack() as stack:
        mine = [stack.enter_context(program(ALICE)) for _ in range(3)]
        clients = [stack.enter_context(client_of(daemon, ALICE)) for _ in range(3)]
        with acting_as(ALICE):
            one_more = stack.enter_context(Client.connect(daemon.socket))
        with pytest.raises(Refused) as caught:
            one_more.handshake("x")
        assert caught.value.failure.code == "limit"
        for number in (0, 1):
            assert isinstance(
                ask(clients[number], Observe(1, mine[number].pid, ("x",), 0.0), Observing), Observing
            )
        assert ask(clients[2], Observe(1, mine[2].pid, ("x",), 0.0), Observing).code == "limit"
        with program(BOB) as theirs, client_of(daemon, BOB) as bob:
            assert isinstance(ask(bob, Observe(1, theirs.pid, ("x",), 0.0), Observing), Observing)
        assert alive(daemon)


def flood(client: Client, record: Record, count: int) -> int:
    """Send until the daemon hangs up; returns how many were sent."""
    data = encode(record) * 100
    sent = 0
    with socket.socket(fileno=os.dup(client.fileno())) as raw:
        raw.settimeout(20)
        with contextlib.suppress(OSError):
            while sent < count:
                raw.sendall(data)
                sent += 100
    return sent


def test_a_million_subscriptions(daemon: Daemon) -> None:
    """Too many requests end the connection, and cost neither memory nor the other clients anything."""
    with client_of(daemon, 0, 0) as root:
        before = daemon.rss_bytes()
        for uid in (ALICE, BOB, ALICE, BOB):
            time.sleep(0.2)  # a new connection does not restore what he may ask: he has to earn it
            with client_of(daemon, uid) as client:
                assert flood(client, Subscribe(1), 1_000_000) < 1_000_000
                said = []
                with contextlib.suppress(WireError):
                    while (answer := client.receive(5)) is not None:
                        said.append(answer)
                # Its answers at the end may be cut off by the reset of the connection.
                assert all(isinstance(answer, Subscribed | Failure) for answer in said)
        assert daemon.rss_bytes() - before < 4 << 20
        assert ask(root, Status(2), StatusReply).status["clients"] == 1
    assert alive(daemon)


def test_random_bytes(daemon: Daemon) -> None:
    """Whatever bytes come, before or after a greeting, the daemon serves on and keeps nothing of them."""
    random_ = random.Random(6)
    hello = encode(Hello(PROTOCOL, "fuzz"))
    before = None
    for number in range(300):
        size = random_.choice((1, 3, 4, 5, 40, 3000, 70_000))
        data = random_.randbytes(size)
        if number % 3 == 1:  # a good length before it
            data = struct.pack(">I", size) + data
        if number % 2:
            data = hello + data
        with raw_of(daemon, ALICE) as raw, contextlib.suppress(OSError):
            raw.sendall(data)
        if number == 100:
            before = daemon.rss_bytes()
    assert before is not None
    assert alive(daemon)
    assert daemon.rss_bytes() - before < 4 << 20


def test_half_a_message(daemon: Daemon) -> None:
    """A connection that never finishes its greeting is closed; half a request holds nobody up."""
    with raw_of(daemon, ALICE) as raw:
        raw.sendall(encode(Hello(PROTOCOL, "slow"))[:-2])
        with client_of(daemon, BOB) as other, client_of(daemon, 0, 0) as root:
            with socket.socket(fileno=os.dup(other.fileno())) as half:
                half.sendall(encode(Status(1))[:-1])
            assert ask(root, Status(1), StatusReply).status["clients"] == 3
        said = b""
        while part := raw.recv(4096):
            said += part
        assert b"no Hello" in said
    assert alive(daemon)


def test_a_reload_that_closes_the_daemon_to_others_ends_their_connections(place: Path) -> None:
    """Who may not look any more does not go on looking."""
    (place / "reload").mkdir()
    with Daemon(place / "reload", config=OPEN) as daemon, client_of(daemon, ALICE) as client:
        daemon.config.write_text(CLOSED)
        daemon.process.send_signal(1)
        with pytest.raises(WireError):
            client.receive(20)
        with acting_as(ALICE), pytest.raises(PermissionError):
            Client.connect(daemon.socket)


def test_a_reload_that_opens_the_daemon_shows_each_his_own(place: Path) -> None:
    """What has been observed for months already, too: from the reload on it is known whose it is."""
    (place / "opens").mkdir()
    rule = '[[discovery.rule]]\nname = "m"\ncommand = ["*mark-opens*"]\n'
    found = rule + CLOSED.replace("enabled = false", "defaults = false")
    with (
        program(ALICE, "input()", "mark-opens") as mine,
        program(BOB, "input()", "mark-opens") as theirs,
        Daemon(place / "opens", config=found) as daemon,
    ):
        everyone = {mine.pid, theirs.pid}
        with client_of(daemon, 0) as root:
            wait_until(lambda: everyone == listed(root), "both to be found")
        daemon.config.write_text(found.replace('"none"', '"own"'))
        daemon.process.send_signal(1)
        wait_until(lambda: daemon.socket.stat().st_mode & 0o777 == 0o666, "the reload")
        with client_of(daemon, ALICE) as client:
            assert listed(client) == {mine.pid}
            own = ask(client, ListTargets(1), TargetList).targets
            assert "mark-opens" in " ".join(own[0]["command"])


def listed(client: Client) -> set[int]:
    return {target["pid"] for target in ask(client, ListTargets(1), TargetList).targets}
