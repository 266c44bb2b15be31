"""A hang is reported while it hangs, with the line of code, and closed when it is over."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from harness import Program
from harness_cli import Daemon, stalls

pytestmark = pytest.mark.bpf

HUNG = """
import socket
def search_web(port):
    s = socket.create_connection(("127.0.0.1", port))
    return s.recv(1)
def main():
    search_web(int(sys.argv[1]))
main()
"""


def test_a_hung_search_is_seen_while_it_hangs(tmp_path: Path) -> None:
    """While a call hangs, subscribers learn thread, function, line and peer, and then its end."""
    with socket.create_server(("127.0.0.1", 0)) as server, Daemon(tmp_path) as daemon:
        port = server.getsockname()[1]
        program = Program(HUNG, str(port))
        try:
            with stalls(daemon, program.pid) as next_stall:
                program.go()
                connection, _ = server.accept()
                stall = next_stall()
                assert program.process.poll() is None  # it hangs still
                assert (stall.pid, stall.tid, stall.state) == (program.pid, program.pid, "network")
                assert stall.peer is not None
                assert stall.peer["port"] == port
                assert stall.function == "search_web"
                assert stall.line == 7  # of the program: two lines are the harness's
                assert any("main" in frame for frame in stall.stack)
                assert not stall.ended
                assert stall.duration_s >= 1.0
                connection.send(b"x")
                connection.close()
                over = next_stall()
                assert over.ended
                assert over.start_s == stall.start_s
                assert over.duration_s >= stall.duration_s
        finally:
            program.close()


def test_a_thread_that_hangs_is_called_what_python_calls_it(tmp_path: Path) -> None:
    """The kernel calls all of them like the program."""
    start = "import threading\nthreading.Thread(target=main, name='search-worker').start()\n"
    code = HUNG.removesuffix("main()\n") + start
    with socket.create_server(("127.0.0.1", 0)) as server, Daemon(tmp_path) as daemon:
        program = Program(code, str(server.getsockname()[1]))
        try:
            with stalls(daemon, program.pid) as next_stall:
                program.go()
                while (stall := next_stall()).tid == program.pid:  # waits for it
                    pass
                assert (stall.thread, stall.function) == ("search-worker", "search_web")
        finally:
            program.close()
