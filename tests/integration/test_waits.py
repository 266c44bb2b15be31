"""What a thread was waiting for, as the kernel side tells it, against programs that know."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from harness import FLOODED, PATIENCE, Probe, Program, Runner, kernel_of, wait_until
from whyidle_daemon.kernel import DEFAULT_SLICE_NS, Kernel
from whyidle_daemon.processes import Process
from whyidle_daemon.timelines import Record, Waker
from whyidle_daemon.waits import WaitKey
from whyidle_daemon.wakes import Wakes
from whyidle_probes.events import Event, Fork, Slice, Thread, Wait
from whyidle_probes.loader import ProbeConfig, load_probes
from whyidle_probes.syscalls import syscall_name

pytestmark = pytest.mark.bpf

NS = 1e9
WAIT_S = 0.05
# A server in the same program, in another thread: it holds each answer for WAIT_S.
SERVER = """
import socket, threading, time
def serve(server, reply):
    while True:
        connection, _ = server.accept()
        time.sleep(0.05)
        connection.sendall(reply)
        connection.close()
def start(host, family=socket.AF_INET):
    server = socket.create_server((host, 0), family=family)
    threading.Thread(target=serve, args=(server, b"x"), daemon=True).start()
    print(server.getsockname()[1], flush=True)
    return server.getsockname()[:2]
"""


def waits(thread: Thread, *kinds: Wait) -> float:
    """Seconds."""
    return sum(thread.ns[kind] for kind in kinds) / NS


def test_states_sum_to_wall(run_observed):
    """Whatever a thread does, its states add up to its life, exactly."""
    program = run_observed("""
        import threading, time, subprocess
        def work():
            for _ in range(20):
                time.sleep(0.001)
                sum(range(20000))
        threads = [threading.Thread(target=work) for _ in range(5)]
        [t.start() for t in threads]
        [t.join() for t in threads]
        subprocess.run(["/bin/true"])
    """)
    exits = run_observed.probe.exits(program.pid)
    assert len(exits) == 6
    for thread in exits:
        assert sum(thread.ns) == thread.end_ns - thread.first_ns


@pytest.mark.parametrize(
    ("wait", "timeout", "calls"),
    [
        ("s.recv(1)", "None", {"recvfrom"}),
        ("s.recv(1)", "9", {"poll"}),
        ("s.makefile('rb').read(1)", "None", {"recvfrom"}),
        ("os.read(s.fileno(), 1)", "None", {"read"}),
        ("select.select([s], [], [])", "None", {"select", "pselect6"}),
        ("p = select.poll(); p.register(s, 1); p.poll()", "None", {"poll", "ppoll"}),
    ],
)
@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", 2), ("::1", 10)])
def test_network_wait_names_its_peer(run_observed, wait, timeout, calls, host, family):
    """A wait for a TCP peer is told with address, port, syscall and duration, however it is waited for."""
    program = run_observed.start(
        SERVER
        + f"address = start({host!r}, {family})\nimport os, select\ntotal = 0\nfor _ in range(3):\n"
        + "    s = socket.create_connection(address, timeout=TIMEOUT)\n".replace("TIMEOUT", timeout)
        + f"    begin = time.monotonic()\n    {wait}\n    total += time.monotonic() - begin\nprint(total)"
    ).go()
    port = int(program.line())
    measured = float(program.line())
    assert program.join() == 0
    thread = run_observed.probe.exit_of(program.pid)
    found = [
        s for s in run_observed.probe.slices(program.pid) if s.tid == program.pid and s.state == Wait.TCP
    ]
    long = [s for s in found if s.blocked_ns >= WAIT_S * NS / 5]
    # On a busy host the answer may be there before the thread asks: then it was kept from asking.
    awake = waits(thread, Wait.RUNNING, Wait.RUNQUEUE)
    assert (3 - len(long)) * WAIT_S * 0.8 <= awake
    for s in long:
        raw = s.peer.remote[:4] if family == 2 else s.peer.remote
        assert ipaddress.ip_address(raw) == ipaddress.ip_address(host)
        assert (s.peer.remote_port, s.peer.family) == (port, family)
        assert syscall_name(s.syscall) in calls
    # What the program measured is the wait, and at most all of its time on or waiting for a CPU.
    blocked = sum(s.blocked_ns for s in long) / NS
    assert blocked <= measured <= blocked + waits(thread, Wait.RUNNING, Wait.RUNQUEUE)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("import time; time.sleep(0.05)", Wait.SLEEP),
        ("import select; select.select([], [], [], 0.05)", Wait.SLEEP),
        ("import select; select.poll().poll(50)", Wait.SLEEP),
        ("import select; select.epoll().poll(0.05)", Wait.EPOLL),
        (
            "import os, threading, time; r, w = os.pipe(); later(lambda: os.write(w, b'x')); os.read(r, 1)",
            Wait.PIPE,
        ),
        (
            "import socket; a, b = socket.socketpair(); later(lambda: b.send(b'x')); a.recv(1)",
            Wait.UNIX,
        ),
        ("import threading; e = threading.Event(); later(e.set); e.wait()", Wait.FUTEX),
        ("import threading; l = threading.Lock(); l.acquire(); later(l.release); l.acquire()", Wait.FUTEX),
        (
            "import fcntl, tempfile; f = open(tempfile.mkstemp()[1], 'w'); g = open(f.name, 'w'); "
            "fcntl.flock(f, fcntl.LOCK_EX); later(lambda: fcntl.flock(f, fcntl.LOCK_UN)); "
            "fcntl.flock(g, fcntl.LOCK_EX)",
            Wait.FUTEX,
        ),
        ("import subprocess; subprocess.run(['/bin/sleep', '0.05'])", Wait.CHILD),
        ("import subprocess; subprocess.run(['/bin/sleep', '0.05'], capture_output=True)", Wait.PIPE),
        (
            "import select, socket, os; a, b = socket.socketpair(); r, w = os.pipe(); p = select.poll(); "
            "p.register(a, 1); p.register(r, 1); later(lambda: b.send(b'x')); p.poll()",
            Wait.POLL,
        ),
        (
            "import select, socket, os; l = socket.create_server(('127.0.0.1', 0)); "
            "c = socket.create_connection(l.getsockname()); s, _ = l.accept(); r, w = os.pipe(); "
            "p = select.poll(); p.register(r, 1); p.register(c, 1); later(lambda: s.send(b'x')); p.poll()",
            Wait.TCP,
        ),
        (
            "import os; e = os.eventfd(0); later(lambda: os.eventfd_write(e, 1)); os.eventfd_read(e)",
            Wait.EVENTFD,
        ),
        (
            "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('127.0.0.1', 0)); "
            "later(lambda: s.sendto(b'x', s.getsockname())); s.recv(1)",
            Wait.UDP,
        ),
        (
            "import socket; s = socket.create_server(('127.0.0.1', 0)); "
            "later(lambda: socket.create_connection(s.getsockname()).close()); s.accept()",
            Wait.LISTEN,
        ),
        (
            "import signal; signal.setitimer(signal.ITIMER_REAL, 0.05); "
            "signal.signal(signal.SIGALRM, lambda *a: None); signal.pause()",
            Wait.SIGNAL,
        ),
        (
            "import fcntl, os, tempfile; f = tempfile.TemporaryFile(); p = os.fork()\n"
            "if p == 0: time.sleep(0.05); os._exit(0)\nos.waitpid(p, 0)",
            Wait.CHILD,
        ),
    ],
)
def test_every_kind_of_wait(run_observed, code, kind):
    """One wait of 50 ms is put down to what it was for, whole, and to nothing else."""
    program = run_observed(
        "import threading, time\n"
        "def later(f):\n    threading.Timer(0.05, f).start()\n" + code.replace("; ", "\n")
        if "\nif" not in code
        else "import threading, time\n" + code.replace("; p =", "\np =")
    )
    thread = run_observed.probe.exit_of(program.pid)
    asleep = {Wait(i): ns / NS for i, ns in enumerate(thread.ns) if i > Wait.RUNQUEUE and ns}
    # The timer starts before the wait does: on a busy host the thread may run or queue for much of its 50 ms.
    awake = waits(thread, Wait.RUNNING, Wait.RUNQUEUE)
    assert asleep.get(kind, 0) >= WAIT_S - awake, (asleep, awake)
    if awake < WAIT_S:
        assert max(asleep, key=lambda k: asleep[k]) == kind


def test_waiting_for_a_disk(run_observed, tmp_path):
    """A file that is written through to a real disk: the thread waits for that file."""
    device = tmp_path.stat().st_dev
    if not Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").exists():
        pytest.skip("no disk is behind the temporary folder")
    program = run_observed(
        """
        import os
        file = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR)
        for _ in range(20):
            os.pwrite(file, os.urandom(1 << 16), 0)
            os.fsync(file)
        print(os.fstat(file).st_ino, flush=True)
        """,
        str(tmp_path / "file"),
    )
    inode = int(program.line())
    thread = run_observed.probe.exit_of(program.pid)
    asleep = {Wait(i): ns for i, ns in enumerate(thread.ns) if i > Wait.RUNQUEUE and ns}
    assert asleep[Wait.FILE] > 0
    assert thread.count[Wait.FILE] >= 20
    found = [s for s in run_observed.probe.slices(program.pid) if syscall_name(s.syscall) == "fsync"]
    assert {(s.state, s.inode) for s in found} <= {(Wait.FILE, inode)}


def test_preemption_is_runqueue(run_observed):
    """More busy threads than CPUs: the time not running is run-queue wait, not sleep."""
    program = run_observed("""
        import os, time
        os.sched_setaffinity(0, {0})
        children = []
        for _ in range(3):
            pid = os.fork()
            if pid == 0:
                end = time.process_time() + 0.2
                while time.process_time() < end: pass
                os._exit(0)
            children.append(pid)
        for pid in children: os.waitpid(pid, 0)
    """)
    probe = run_observed.probe
    children = [e.pid for e in probe.events() if isinstance(e, Fork)]
    assert len(children) == 3
    totals = [probe.exit_of(pid) for pid in children]
    for thread in totals:
        asleep = sum(thread.ns[2:]) / NS
        assert thread.ns[Wait.RUNNING] >= 0.2 * NS
        assert asleep <= 0.1 * (thread.end_ns - thread.first_ns) / NS
    # One CPU: whoever ends last waited while the others ran, as far as it was there then.
    last = max(totals, key=lambda thread: thread.end_ns)
    others = sum(
        min(t.end_ns, last.end_ns) - max(t.first_ns, last.first_ns) - t.ns[Wait.RUNQUEUE]
        for t in totals
        if t is not last
    )
    assert last.ns[Wait.RUNQUEUE] >= 0.9 * others
    assert program.pid


def test_turns_on_a_shared_cpu_are_told_together(run_observed):
    """Two busy threads on one CPU: a slice for 80 ms of turns, as long as all of them, in order and apart."""
    run_observed("""
        import os, time
        os.sched_setaffinity(0, {0})
        pid = os.fork()
        for _ in range(2):
            end = time.process_time() + 0.2
            while time.process_time() < end: pass
            time.sleep(0.01)
        if pid: os.waitpid(pid, 0)
    """)
    probe = run_observed.probe
    (child,) = (e.pid for e in probe.events() if isinstance(e, Fork))
    thread = probe.exit_of(child)
    slices = probe.slices(child)
    turns = [s for s in slices if s.state == Wait.RUNQUEUE]
    told = sum(s.runqueue_ns for s in slices)
    assert thread.ns[Wait.RUNQUEUE] - thread.count[Wait.RUNQUEUE] * DEFAULT_SLICE_NS <= told
    assert told <= thread.ns[Wait.RUNQUEUE]
    assert turns
    for before, after in pairwise(slices):
        assert before.start_ns + before.blocked_ns + before.runqueue_ns <= after.start_ns
        if before in turns and after in turns:
            alone = max(before.runqueue_ns, after.runqueue_ns) >= 32_000_000
            assert alone or after.start_ns - before.start_ns >= 80_000_000


def test_turns_are_told_while_they_go_on(probe, programs):
    """Of a thread that neither sleeps nor ends."""
    program = Program("""
        import os, signal
        os.sched_setaffinity(0, {0})
        children = []
        for _ in range(2):
            pid = os.fork()
            if pid == 0:
                signal.alarm(300)  # whatever becomes of this test
                while True: pass
            children.append(pid)
        print(children[0], flush=True)
        sys.stdin.readline()
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    """)
    programs.append(program)
    program.go()
    child = int(program.line())
    probe.track(program.pid)
    wait_until(
        lambda: len([s for s in probe.slices(child) if s.state == Wait.RUNQUEUE and s.runqueue_ns]) >= 3,
        "three slices of turns",
    )
    assert not probe.exits(child)
    program.go()
    assert program.join() == 0


def test_existing_threads_are_picked_up(probe, programs):
    """A process that was there before, with threads asleep and a child, is tracked whole from then on."""
    program = Program("""
        import os, threading, time
        ready = threading.Barrier(8)
        def work():
            ready.wait()
            release.wait()
        release = threading.Event()
        threads = [threading.Thread(target=work) for _ in range(7)]
        [t.start() for t in threads]
        child = os.fork()
        if child == 0:
            sys.stdin.readline()
            os._exit(3)
        ready.wait()
        print(child, flush=True)
        os.waitpid(child, 0)
        release.set()
        [t.join() for t in threads]
    """)
    programs.append(program)
    program.go()
    child = int(program.line())
    probe.track(program.pid)
    assert sorted(probe.kernel.processes(probe.number)) == sorted([program.pid, child])
    threads = probe.kernel.threads(probe.number)
    assert len([t for t in threads if t.pid == program.pid]) == 8
    assert {t.pid for t in threads} == {program.pid, child}
    program.go()
    assert program.join() == 0
    wait_until(lambda: not probe.kernel.threads(probe.number), "all threads to end")
    for thread in probe.exits(program.pid):
        assert sum(thread.ns) == thread.end_ns - thread.first_ns


def test_slices_are_exactly_those_above_the_threshold(run_observed):
    """A prime number of long waits gives that number of slices; short ones only count in the totals."""
    program = run_observed("""
        import time
        def sleep(seconds):
            before = time.monotonic()
            time.sleep(seconds)
            return time.monotonic() - before
        for _ in range(23):
            sleep(0.02)
            until = time.thread_time() + 0.0002
            while time.thread_time() < until: pass
        print(sum(sleep(0.0001) >= 0.01 for _ in range(101)), flush=True)
    """)
    held_up = int(program.line())  # what a busy host made of the short ones
    thread = run_observed.probe.exit_of(program.pid)
    sleeps = [
        s
        for s in run_observed.probe.slices(program.pid)
        if s.state == Wait.SLEEP and s.blocked_ns >= 10_000_000
    ]
    assert 23 <= len(sleeps) <= 23 + held_up
    # A sleep whose timer fires before the thread has left its CPU is none.
    assert 23 < thread.count[Wait.SLEEP] <= 124
    assert isinstance(sleeps[0], Slice)


SELECTOR = """
s = socket.create_connection(start("127.0.0.1"))
with selectors.EpollSelector() as selector:
    selector.register(s, selectors.EVENT_READ)
    selector.select()
"""
ASK = """
async def ask(end):
    reader, writer = await asyncio.open_connection(*end)
    await reader.read()
    writer.close()
"""
LOOP = f"""
asyncio.run(asyncio.wait_for(asyncio.open_connection(*start("127.0.0.1")), 5))
{ASK}
asyncio.run(ask(start("127.0.0.1")))
"""


@pytest.mark.parametrize("code", [SELECTOR, LOOP], ids=["selector", "asyncio"])
def test_the_socket_that_woke_a_selector_is_known(run_observed, code):
    """epoll itself names nobody: what it has ready when it wakes the thread does."""
    check_who_woke(run_observed, code)


def check_who_woke(run_observed: Runner, code: str) -> None:
    program = run_observed.start("import asyncio, selectors\n" + SERVER + code).go()
    ports = {int(program.line()) for _ in range(code.count("start("))}
    assert program.join() == 0
    slices = run_observed.probe.slices(program.pid)
    waits = [s for s in slices if s.tid == program.pid and s.state == Wait.EPOLL]
    long = [s for s in waits if s.blocked_ns >= WAIT_S * 0.8 * NS]
    assert long
    assert {s.peer.remote_port for s in long} <= ports
    assert {ipaddress.ip_address(s.peer.remote[:4]).is_loopback for s in long} == {True}


def test_a_wake_through_a_pipe_of_the_loop_is_of_no_peer_before(run_observed):
    """A worker ends the wait of a loop that waited for a TCP peer before: that peer has no part in it."""
    code = """
async def main(end):
    await ask(end)
    def work():
        print(threading.get_native_id(), flush=True)
        time.sleep(0.05)
    await asyncio.get_running_loop().run_in_executor(None, work)
asyncio.run(main(start("127.0.0.1")))
"""
    program = run_observed.start("import asyncio\n" + SERVER + ASK + code).go()
    port, worker = int(program.line()), int(program.line())
    assert program.join() == 0
    waits = [
        s
        for s in run_observed.probe.slices(program.pid)
        if s.tid == program.pid and s.state == Wait.EPOLL and s.blocked_ns >= WAIT_S * 0.8 * NS
    ]
    assert [s.peer.remote_port for s in waits] == [port, 0]
    after = waits[1]
    assert (after.peer.family, after.waker_tid) == (socket.AF_UNIX, worker)
    assert (after.peer.local, after.peer.remote, after.peer.local_port) == (bytes(16), bytes(16), 0)
    wakes = Wakes(lambda pid, ns: Process(pid, 0, provisional=False))
    assert wakes.ended_by((program.pid, program.pid), record_of(after)) == (program.pid, worker)


def record_of(s: Slice) -> Record:
    """As an observation keeps it."""
    process = Process(s.pid, 0, provisional=False)
    key = WaitKey(process, s.tid, s.state, s.peer.remote, s.peer.remote_port, s.peer.family)
    waker = Waker(s.waker_pid, s.waker_tid, s.waker_syscall)
    return Record(s.start_ns, s.blocked_ns, s.runqueue_ns, s.state, key, waker=waker)


@pytest.fixture(scope="module")
def without_ready() -> Iterator[tuple[Kernel, list[Event]]]:
    """The probes as a kernel gets them whose epoll has a shape that nobody knows yet."""
    with kernel_of(load_probes(ProbeConfig(without=("WI_EPOLL_READY",)))) as kernel_and_seen:
        yield kernel_and_seen


@pytest.fixture
def run_without_ready(
    probe: Probe, without_ready: tuple[Kernel, list[Event]], programs: list[Program]
) -> Iterator[Runner]:
    kernel, seen = without_ready
    yield Runner(Probe(kernel, seen, probe.number), programs)
    kernel.untrack(probe.number)
    seen.clear()


@pytest.mark.parametrize("code", [SELECTOR, LOOP], ids=["selector", "asyncio"])
def test_the_socket_that_woke_an_unknown_epoll(run_without_ready, code):
    """There the network stack's notes tell it, once they are made."""
    run, kernel = run_without_ready, run_without_ready.probe.kernel
    if "sk_data_ready" in kernel.missing:
        pytest.skip("this kernel has no sk_data_ready (6.3)")
    if PATIENCE > 1:
        pytest.skip("an emulated machine takes longer from the note to the waking than a note lasts")
    first = run.start("import selectors\n" + SERVER + SELECTOR).go()
    wait_until(lambda: run.probe.events() is not None and kernel.makes_notes, "the note-taker")
    assert first.join() == 0
    check_who_woke(run, code)


SELECTED = """
s, t = (socket.create_connection(start("127.0.0.1")) for _ in range(2))
select.select([s, t], [], [])
"""


@pytest.mark.parametrize("code", [SELECTED, SELECTOR], ids=["select", "epoll"])
def test_the_network_stack_is_asked_only_by_those_who_need_it(run_observed, code):
    """Each message of the host is noted from when a thread slept in a select until nobody is observed."""
    kernel = run_observed.probe.kernel
    if "sk_data_ready" in kernel.missing:
        pytest.skip("this kernel has no sk_data_ready (6.3)")
    assert not kernel.makes_notes
    program = run_observed.start("import select, selectors\n" + SERVER + code).go()
    ports = {int(program.line()) for _ in range(2 if code is SELECTED else 1)}
    if code is SELECTED:
        wait_until(lambda: run_observed.probe.events() and kernel.makes_notes, "the note-taker")
    assert program.join() == 0
    run_observed.probe.events()
    assert kernel.makes_notes == (code is SELECTED)
    waits = [s for s in run_observed.probe.slices(program.pid) if s.state in (Wait.POLL, Wait.EPOLL)]
    assert {s.peer.remote_port for s in waits if s.blocked_ns >= WAIT_S * 0.8 * NS} <= ports
    kernel.untrack(run_observed.probe.number)
    assert not kernel.makes_notes


POLLED = f"""{FLOODED}
one, two = udp(), udp()
poller = select.poll()
poller.register(one, select.POLLIN), poller.register(two, select.POLLIN)
end = time.monotonic() + 1.5
while time.monotonic() < end: poller.poll(20)
"""


def test_a_socket_that_nobody_polls_wakes_no_poll(run_observed):
    """Messages for others arrive all the time on the CPU on which a poll's timeout ends it."""
    kernel = run_observed.probe.kernel
    if "sk_data_ready" in kernel.missing:
        pytest.skip("this kernel has no sk_data_ready (6.3)")
    program = run_observed.start("import select\n" + POLLED).go()
    wait_until(lambda: run_observed.probe.events() is not None and kernel.makes_notes, "the note-taker")
    assert program.join() == 0
    slices = run_observed.probe.slices(program.pid)
    waits = [s for s in slices if s.tid == program.pid and s.state == Wait.POLL]
    assert len(waits) > 5
    assert {s.peer.remote_port for s in waits} == {0}


MANY = """
import select
many = [socket.create_connection(start("127.0.0.1")) for _ in range(2)]
poller = select.poll()
for each in many: poller.register(each, select.POLLIN)
if sys.argv[1] == "poll": poller.poll(20)
else: select.select(many, [], [], 0.02)
"""


@pytest.mark.parametrize("call", ["poll", "select"])
def test_of_many_that_said_nothing_none_is_the_peer(run_observed, call):
    """A time-out ends the wait for several connections: to look at each of them must leave no trace."""
    program = run_observed.start(SERVER + MANY, call).go()
    assert program.join() == 0
    slices = run_observed.probe.slices(program.pid)
    timed = [s for s in slices if s.tid == program.pid and s.state == Wait.POLL]
    assert timed
    assert {(s.peer.family, s.peer.remote_port, s.inode) for s in timed} == {(0, 0, 0)}


TIMED = f"""{FLOODED}
one = udp()
selector = select.epoll()
selector.register(one, select.EPOLLIN)
end = time.monotonic() + 1.5
while time.monotonic() < end: selector.poll(0.02)
"""


def test_a_selector_that_time_ended_was_woken_by_nobody(run_observed):
    """The timer interrupts who runs on the CPU, in the middle of a system call that ends such waits."""
    program = run_observed("import select\n" + TIMED)
    slices = run_observed.probe.slices(program.pid)
    waits = [s for s in slices if s.tid == program.pid and s.state == Wait.EPOLL]
    assert len(waits) > 5
    assert {syscall_name(s.waker_syscall) for s in waits} == {None}


@pytest.mark.parametrize(("linger", "state"), [(True, 7), (False, 8)], ids=["reset", "closed"])
def test_how_a_connection_ended_a_wait(run_observed, linger, state):
    """A reset is told from an answer and from an orderly end."""
    program = run_observed.start(
        f"""
        import socket, struct, threading, time
        server = socket.create_server(("127.0.0.1", 0))
        def serve():
            c, _ = server.accept()
            time.sleep(0.05)
            if {linger}:
                c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            c.close()
        threading.Thread(target=serve, daemon=True).start()
        s = socket.create_connection(server.getsockname())
        try:
            s.recv(1)
        except ConnectionResetError:
            pass
        """
    ).go()
    assert program.join() == 0
    slices = run_observed.probe.slices(program.pid)
    ends = [s.peer.tcp_end for s in slices if s.tid == program.pid and s.state == Wait.TCP]
    assert ends[-1] == state


@pytest.mark.parametrize(
    ("call", "polls"),
    [
        ("select.select([r], [], [], 0)", True),
        ("poller.poll(0)", True),
        ("epoll.poll(0)", True),
        ("sum(range(100))", False),
        ("os.getppid()", False),
    ],
)
def test_a_clock_tells_a_spin_from_work(run_observed, call, polls):
    """Answers of a thread that never sleeps: inside a poll that does not wait, or anywhere else."""
    program = run_observed.start(
        f"""
        import os, select, signal
        going = True
        def stop(*_):
            global going
            going = False
        signal.signal(signal.SIGTERM, stop)
        r, w = os.pipe()
        poller, epoll = select.poll(), select.epoll()
        poller.register(r), epoll.register(r)
        print("ready", flush=True)
        sys.stdin.readline()
        while going:
            {call}
        """
    ).go()
    assert program.line() == "ready"
    clock = run_observed.probe.kernel.attach_clock(program.pid, 999)
    assert clock is not None
    program.go()

    def told() -> bool:
        thread = run_observed.probe.kernel.thread(program.pid)
        # How many are inside the call depends on the machine: an emulated one answers mostly outside.
        return thread is not None and thread.clock_samples > 100 and thread.polling_samples >= 5 * polls

    wait_until(told, "a hundred answers of the clock, and some inside the call if it is a poll")
    program.process.terminate()
    assert program.join() == 0
    os.close(clock)
    thread = run_observed.probe.exit_of(program.pid)
    assert bool(thread.polling_samples) == polls
    if polls and PATIENCE == 1:  # the loop and the clock it reads are the rest
        assert thread.polling_samples > thread.clock_samples / 25


def test_short_socket_waits_are_summed_by_peer(run_observed):
    """A thousand waits too short for events still add up, with the peer's name on the sum."""
    program = run_observed.start(
        """
        import socket, threading
        server = socket.create_server(("127.0.0.1", 0))
        def echo():
            c, _ = server.accept()
            c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while c.recv(1): c.send(b"y")
        threading.Thread(target=echo, daemon=True).start()
        print(server.getsockname()[1], flush=True)
        s = socket.create_connection(server.getsockname())
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(997): s.send(b"x"); s.recv(1)
        """
    ).go()
    port = int(program.line())
    assert program.join() == 0
    thread = run_observed.probe.exit_of(program.pid)
    mine = [
        w
        for w in run_observed.probe.kernel.drain_waits()
        if w.tid == program.pid and w.remote_port == port and w.target == run_observed.probe.number
    ]
    long = [s for s in run_observed.probe.slices(program.pid) if s.tid == program.pid and s.state == Wait.TCP]
    assert sum(w.count for w in mine) + len(long) == thread.count[Wait.TCP]
    assert sum(w.ns for w in mine) + sum(s.blocked_ns for s in long) == thread.ns[Wait.TCP]
