"""Every situation in which whyidle gives up, with what to do about it. Caught once, in ``main``.

``str(error)`` says what happened and ``error.hint`` what to do, one line each. Exit status 2 is wrong usage,
3 a host or a user that cannot use whyidle now, 1 everything else.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
from pathlib import Path
from typing import ClassVar, Final

from whyidle_wire.records import Failure, FailureCode

_UNIT: Final = Path("/etc/systemd/system/whyidled.service")
_PROCESSES: Final = (
    "end other processes, or allow more: ulimit -a, memory.max and pids.max of the control group"
)
_MORE: Final = {
    errno.ENOSPC: "make room: df says where there is none",
    errno.EDQUOT: "make room, or get more of it: quota says how much is left",
    errno.EMFILE: "allow more open files: ulimit -n",
    errno.ENFILE: "allow more open files: sysctl fs.file-max",
    errno.EAGAIN: _PROCESSES,
    errno.ENOMEM: _PROCESSES,
    errno.EIO: "look at the kernel's log: dmesg",
}


class CliError(Exception):
    """Base of all; never raised itself."""

    exit_status: ClassVar[int] = 1
    hint: str = "run 'whyidle doctor' to see what this host can do"


class WrongUsage(CliError):  # noqa: N818 (these are named for the situation, not "…Error")
    """Options that argparse accepts but that make no sense together."""

    exit_status = 2

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class CommandNotFound(CliError):  # noqa: N818
    """There is no such program."""

    def __init__(self, name: str) -> None:
        super().__init__(f"command not found: {name}")
        self.hint = "check the spelling, or give the path" if "/" not in name else "check the path"


class CommandNotExecutable(CliError):  # noqa: N818
    """The file is there, but is a directory or lacks the x bit."""

    def __init__(self, path: str) -> None:
        kind = "a directory" if Path(path).is_dir() else "not executable"
        super().__init__(f"cannot run {path}: it is {kind}")
        self.hint = (
            "name a program" if kind == "a directory" else f"chmod +x {path}, or name its interpreter first"
        )


class CommandNotStarted(CliError):  # noqa: N818
    """The kernel refused to execute it."""

    def __init__(self, path: str, number: int) -> None:
        super().__init__(f"cannot run {path}: {os.strerror(number)}")
        self.hint = "is it made for this machine, and does it begin with '#!' and an interpreter that exists?"
        if number in (errno.EAGAIN, errno.ENOMEM):
            self.hint = "end other processes, or allow more: ulimit -u, pids.max of the control group"


class NoDaemon(CliError):  # noqa: N818
    """No daemon answers, and this user cannot start one. ``private``: root could."""

    exit_status = 3

    def __init__(self, path: Path, reason: str, *, private: bool) -> None:
        super().__init__(f"no daemon answers on {path} ({reason})")
        service = (
            "look why the service does not answer: systemctl status whyidled"
            if _UNIT.exists()
            else "install the service: sudo whyidle install"
        )
        self.hint = f"run as root, or {service}" if private else service


class SocketForbidden(CliError):  # noqa: N818
    """The daemon's socket is there, but not for this user."""

    exit_status = 3

    def __init__(self, path: Path) -> None:
        super().__init__(f"not allowed to talk to the daemon on {path}")
        group = _group_of(path)
        self.hint = "run as root"
        if group is not None:
            self.hint += f", or join its group and log in again: sudo usermod -aG {group} {_user()}"


class HostCannotRun(CliError):  # noqa: N818
    """The daemon says that this host lacks something."""

    exit_status = 3

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint or CliError.hint


class PrivateDaemonFailed(CliError):  # noqa: N818
    """The daemon that whyidle started for itself ended before it was ready."""

    def __init__(self, status: int, last_line: str) -> None:
        said = f": {last_line}" if last_line else ""
        super().__init__(f"the private daemon ended with status {status}{said}")


class DaemonRefused(CliError):  # noqa: N818
    """The daemon answered with a Failure."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.hint = failure.hint or CliError.hint


class NotOurDaemon(CliError):  # noqa: N818
    """What answers is not a whyidle daemon of this protocol version."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the daemon does not speak this protocol: {reason}")
        self.hint = "use the whyidle and whyidled of one release, and restart the service after an upgrade"


class DaemonGone(CliError):  # noqa: N818
    """The connection ended before the daemon had answered."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.hint = "look at the daemon's log (journalctl -u whyidled)"


class ReportLost(CliError):  # noqa: N818
    """The connection ended during the observation; the observed command was left alone."""

    def __init__(self, reason: str, exit_status: int | None) -> None:
        super().__init__(f"the report is lost: {reason}")
        ran = "" if exit_status is None else f"the command ran to its end with status {exit_status}; "
        self.hint = f"{ran}look at the daemon's log (journalctl -u whyidled)"


class UnreadableReport(CliError):  # noqa: N818
    """The report lacks what the contract promises."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the report cannot be shown: {reason}")
        self.hint = "use --json to keep it as it is, and report this as a bug"


class NoSuchProcess(CliError):  # noqa: N818
    """The PID is gone, or never was."""

    def __init__(self, pid: int, *, ended: bool = False) -> None:
        super().__init__(f"process {pid} {'has already ended' if ended else 'does not exist'}")
        self.hint = "find the PID with ps or pgrep, or start the command with 'whyidle run -- CMD'"


class KernelThread(CliError):  # noqa: N818
    """The PID is a kernel thread, which has no program to explain."""

    def __init__(self, pid: int, name: str) -> None:
        super().__init__(f"process {pid} ({name}) is a kernel thread")
        self.hint = "name a process that runs a program; kernel threads have no children and no Python stack"


class ThreadNotProcess(CliError):  # noqa: N818
    """The number is a thread's."""

    def __init__(self, tid: int, pid: int) -> None:
        super().__init__(f"{tid} is a thread of process {pid}")
        self.hint = f"attach to {pid}: all its threads are observed"


class OwnProcess(CliError):  # noqa: N818
    """whyidle was asked to observe itself."""

    def __init__(self, pid: int) -> None:
        super().__init__(f"process {pid} is whyidle itself")
        self.hint = "name another process"


class CannotWrite(CliError):  # noqa: N818
    """A report cannot be written there."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"cannot write {path}: {reason}")
        self.hint = "--json takes a file, no recording, in a directory that exists and is writable, or '-'"


class CannotRecord(CliError):  # noqa: N818
    """A recording cannot be written there."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"cannot record to {path}: {reason}")
        self.hint = "--record takes a new file in a directory that exists; it never replaces one"


class CannotReplay(CliError):  # noqa: N818
    """There is no report in that file; the daemon's package says why and what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class ReplayFailed(CliError):  # noqa: N818
    """Reading the recording ended without an answer."""

    def __init__(self, status: int, last_line: str) -> None:
        said = f": {last_line}" if last_line else ""
        super().__init__(f"reading the recording ended with status {status}{said}")
        self.hint = "keep the file and report this as a bug, with what 'whyidle --version' prints"


class CannotPrint(CliError):  # noqa: N818
    """Standard output does not take the report: a full disk, most often."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"cannot write to standard output: {reason}")
        self.hint = "make room, or send the output elsewhere"


class HostRefused(CliError):  # noqa: N818
    """A system call failed, and nothing else is known of it."""

    def __init__(self, error: OSError) -> None:
        what = f"{error.filename}: " if error.filename is not None else ""
        super().__init__(f"this host refused: {what}{error.strerror or error}")
        self.hint = _MORE.get(error.errno or 0, "run it as root, or see what 'whyidle doctor' says")


class DoctorFailed(CliError):  # noqa: N818
    """The doctor did not say anything that can be shown."""

    def __init__(self, status: int, last_line: str) -> None:
        super().__init__(f"the doctor ended with status {status}{': ' + last_line if last_line else ''}")
        self.hint = "whyidle's daemon package does not work: install it again as it was installed"


class InstallFailed(CliError):  # noqa: N818
    """The service cannot be installed or removed; what was there before is there still."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def _group_of(path: Path) -> str | None:
    """The group that may talk to the daemon; not root's, which nobody should join for it."""
    try:
        number = path.stat().st_gid
        return grp.getgrgid(number).gr_name if number else None
    except (OSError, KeyError):
        return None


def _user() -> str:
    """This user's name, as a command line takes it."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return "USER"


def from_failure(failure: Failure) -> CliError:
    """The error for what the daemon answered."""
    if failure.code == FailureCode.HOST:
        return HostCannotRun(failure.message, failure.hint)
    if failure.code == FailureCode.PROTOCOL:
        return NotOurDaemon(failure.message)
    return DaemonRefused(failure)
