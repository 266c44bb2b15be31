"""Finds a daemon to talk to: the system's, or a private one for as long as this command runs."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final, TypeVar

from whyidle_cli.errors import (
    CliError,
    DaemonGone,
    HostCannotRun,
    NoDaemon,
    NotOurDaemon,
    PrivateDaemonFailed,
    SocketForbidden,
    from_failure,
)
from whyidle_cli.version import version
from whyidle_wire.client import DEFAULT_SOCKET, Client
from whyidle_wire.errors import Disconnected, Refused, WireError
from whyidle_wire.records import Failure, Record, Welcome

# -P: as root, a module that happens to lie in the current directory must not be imported.
DAEMON: Final = [sys.executable, "-P", "-m", "whyidle_daemon.start"]

START_TIMEOUT_S: Final = 60.0
"""For a private daemon to compile and attach its probes; measured: under 2 s."""

_ANSWER_TIMEOUT_S: Final = 30.0
_EXIT_TIMEOUT_S: Final = 3.0
_TAIL_BYTES: Final = 64 * 1024


Answer = TypeVar("Answer", bound=Record)


class Connection:
    """A client that has been welcomed, and the daemon's Welcome."""

    def __init__(self, client: Client, welcome: Welcome) -> None:
        self.client = client
        self.welcome = welcome


def system_daemon(path: Path = DEFAULT_SOCKET) -> Connection | None:
    """Connect to the daemon that listens on ``path``; None if nobody does.

    Raises SocketForbidden, NotOurDaemon, DaemonGone, HostCannotRun or DaemonRefused.
    """
    try:
        client = Client.connect(path)
    except PermissionError:
        raise SocketForbidden(path) from None
    except OSError:
        return None
    try:
        return Connection(client, _welcome(client, timeout_s=10.0))
    except BaseException:
        client.close()
        raise


def _welcome(client: Client, timeout_s: float) -> Welcome:
    try:
        return client.handshake(f"whyidle {version()}", timeout_s)
    except Refused as refused:
        raise from_failure(refused.failure) from None
    except Disconnected as error:
        raise DaemonGone(str(error)) from None
    except WireError as error:
        raise NotOurDaemon(str(error)) from None


def require_system_daemon(path: Path) -> Connection:
    """Connect to the daemon that listens on ``path``; raises NoDaemon if nobody does."""
    connection = system_daemon(path)
    if connection is None:
        raise NoDaemon(path, _reason(path), private=False)
    return connection


def ask(client: Client, request: Record, kind: type[Answer]) -> Answer:
    """Send a request and return its answer, a record of ``kind``.

    Raises DaemonGone, NotOurDaemon, or what the daemon's refusal says.
    """
    try:
        client.send(request)
        answer = client.receive(_ANSWER_TIMEOUT_S)
    except Disconnected as error:
        raise DaemonGone(str(error)) from None
    except WireError as error:
        raise NotOurDaemon(str(error)) from None
    if isinstance(answer, Failure):
        raise from_failure(answer)
    if answer is None:
        raise DaemonGone(f"the daemon did not answer within {_ANSWER_TIMEOUT_S:g} s")
    if not isinstance(answer, kind):
        raise NotOurDaemon(f"{type(answer).__name__} in answer to {type(request).__name__}")
    return answer


@contextlib.contextmanager
def any_daemon(path: Path) -> Iterator[Connection]:
    """The system daemon if it answers, else, as root, a private one that ends with the block."""
    connection = system_daemon(path)
    if connection is not None:
        with connection.client:
            yield connection
    elif os.geteuid() == 0:
        with private_daemon() as private:
            yield private
    else:
        raise NoDaemon(path, _reason(path), private=True)


def _reason(path: Path) -> str:
    try:
        return "left by a daemon that is gone" if path.is_socket() else "no such socket"
    except OSError as error:
        return error.strerror or str(error)


@contextlib.contextmanager
def private_daemon() -> Iterator[Connection]:
    """Start a daemon that serves one end of a socket pair and ends when the other end is closed.

    It gets a session of its own, so that Ctrl-C ends the observed command and not the daemon. Raises
    HostCannotRun if it ends with status 3, PrivateDaemonFailed for any other, with its last words.
    """
    ours, theirs = socket.socketpair()
    with _scratch() as log:
        client = Client(ours)
        process: subprocess.Popen[bytes] | None = None
        try:
            with theirs:
                process = subprocess.Popen(
                    [*DAEMON, "--connection-fd", str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
            try:
                welcome = _welcome(client, START_TIMEOUT_S)
            except DaemonGone:
                raise _last_words(process, log) from None
            yield Connection(client, welcome)
        finally:
            client.close()
            if process is not None:
                _end(process)


def _scratch() -> IO[bytes]:
    """A file without a name; in memory where no directory for temporary ones can be written to."""
    try:
        return tempfile.TemporaryFile()
    except OSError:
        return os.fdopen(os.memfd_create("whyidle"), "w+b")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Wait for a daemon whose connection was closed. Killing it is safe: its probes end with it.

    A process of somebody's can keep the kernel from taking probes off, and so the daemon from ending: then it
    ends later, and nobody waits.
    """
    try:
        process.wait(_EXIT_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_EXIT_TIMEOUT_S)


def _last_words(process: subprocess.Popen[bytes], log: IO[bytes]) -> CliError:
    _end(process)
    log.seek(max(0, os.fstat(log.fileno()).st_size - _TAIL_BYTES))
    lines = [line.strip() for line in log.read().decode("utf-8", "replace").splitlines()]
    lines = [line.removeprefix("whyidled: ") for line in lines if line]
    ended = -signal.SIGKILL if process.returncode is None else process.returncode
    status = ended if ended >= 0 else 128 - ended
    if status != 3:
        return PrivateDaemonFailed(status, lines[-1] if lines else "")
    # The daemon's errors have the same two lines as ours.
    what, fix = (lines[-2], lines[-1]) if len(lines) > 1 else ("".join(lines), "")
    return HostCannotRun(what or "this host cannot run the daemon", fix)
