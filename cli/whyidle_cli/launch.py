"""Starts the command so that it can be observed from its first instruction.

The child is forked and waits on a pipe while the daemon gets ready; only then it executes the command. What
the command inherits is what it would have inherited without whyidle: descriptors, environment, signals.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, NoReturn, Self

from whyidle_cli.errors import CommandNotExecutable, CommandNotFound, CommandNotStarted
from whyidle_cli.signals import IGNORED_CHILDREN

# Python ignores these two at start-up; a command started by a shell would have them at their default.
_IGNORED_BY_PYTHON: Final = (signal.SIGPIPE, signal.SIGXFSZ)


def find_command(name: str) -> str:
    """The path of the program that ``name`` stands for, searched for in PATH like a shell does.

    Raises CommandNotFound or CommandNotExecutable.
    """
    found = shutil.which(name)
    if found is not None:
        return found
    if "/" in name and os.path.exists(name):  # noqa: PTH110 (Path's raises for a name too long, and more)
        raise CommandNotExecutable(name)
    raise CommandNotFound(name)


def inherited_environment() -> dict[bytes, bytes]:
    """The environment, without the LC_CTYPE that Python sets for itself in the C locale (PEP 538)."""
    environment = dict(os.environb)
    with contextlib.suppress(OSError):
        original = Path("/proc/self/environ").read_bytes()
        if b"\0LC_CTYPE=" not in b"\0" + original and environment.get(b"LC_CTYPE") == b"C.UTF-8":
            del environment[b"LC_CTYPE"]
    return environment


class HeldChild:
    """A child process that waits for :meth:`release` before it executes the command.

    As a context manager it makes sure that a child that was never released ends; one that was is left alone.
    """

    def __init__(self, path: str, command: Sequence[str]) -> None:
        """Fork. ``path`` is the program, ``command`` its arguments from argv[0] on.

        Raises CommandNotStarted if there is no room for another process.
        """
        self._path = path
        self._released = False
        self._status: int | None = None
        go_read, self._go = os.pipe()
        self._errors, error_write = os.pipe()
        try:
            self.pid = os.fork()
        except OSError as error:
            for descriptor in (go_read, self._go, self._errors, error_write):
                os.close(descriptor)
            raise CommandNotStarted(path, error.errno or errno.EAGAIN) from None
        if self.pid == 0:
            _become(path, command, go_read, self._go, error_write)
        os.close(go_read)
        os.close(error_write)
        self.pidfd = os.pidfd_open(self.pid)

    def release(self) -> None:
        """Let the child execute the command; raises CommandNotStarted if the kernel refuses."""
        self._released = True
        with contextlib.suppress(BrokenPipeError):  # it was killed while it waited: wait() will say so
            os.write(self._go, b"x")
        # Ends at once when the child executes: the other end is closed on exec.
        number = os.read(self._errors, 16)
        if number:
            self.wait()
            raise CommandNotStarted(self._path, int(number))

    def ended(self) -> bool:
        """Whether it has ended; never waits."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = _shell_status(status)
        return self._status is not None

    def wait(self) -> int:
        """Wait for its end; returns its status as a shell has it, 128 + signal when it was killed."""
        if self._status is None:
            _, status = os.waitpid(self.pid, 0)
            self._status = _shell_status(status)
        return self._status

    def signal(self, number: int) -> None:
        """Pass a signal on; nothing happens if the child has ended."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._go)  # unreleased, it reads the end of the pipe and exits
        os.close(self._errors)
        if not self._released:
            self.wait()
        os.close(self.pidfd)


def _shell_status(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _become(path: str, command: Sequence[str], go_read: int, go_write: int, errors: int) -> NoReturn:
    """In the child: wait for the word, then execute. Never returns, and never runs the parent's clean-up."""
    try:
        for number in _IGNORED_BY_PYTHON:
            signal.signal(number, signal.SIG_DFL)
        # Handlers become the default when the command is executed; until then Ctrl-C must not raise here.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        if IGNORED_CHILDREN:
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        os.close(go_write)  # else the end of the parent would not end the wait
        environment = inherited_environment()
        if os.read(go_read, 1):
            try:
                os.execve(path, list(command), environment)  # noqa: S606 (running it is the point)
            except OSError as error:
                os.write(errors, str(error.errno).encode())
    finally:
        os._exit(127)
