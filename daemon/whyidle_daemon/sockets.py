"""The daemon's socket: made by itself, handed over by systemd, or one end of a pair for a private daemon."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import logging
import os
import socket
import stat
from pathlib import Path

from whyidle_daemon.errors import StartError

log = logging.getLogger(__name__)

_LISTEN_FDS_START = 3

_locks: list[int] = []  # held as long as this process serves

File = tuple[int, int]
"""Device and inode."""


def listening(path: Path, group: str) -> tuple[socket.socket, File | None]:
    """The socket to serve on, and its file, if that is ours to remove: one that systemd made is not."""
    activated = from_systemd()
    if activated is not None:
        return activated, None
    listener = bind(path, group)
    return listener, _file(path)


def from_systemd() -> socket.socket | None:
    """The listening socket that systemd holds for us (socket activation), if it does.

    Raises StartError for something else than one listening Unix stream socket, and where another daemon
    serves its file.
    """
    count, pid = os.environ.pop("LISTEN_FDS", ""), os.environ.pop("LISTEN_PID", "")
    os.environ.pop("LISTEN_FDNAMES", None)  # our children are not meant
    if not count.isdigit() or pid != str(os.getpid()) or int(count) == 0:
        return None
    listener = socket.socket(fileno=_LISTEN_FDS_START)
    listener.set_inheritable(False)
    good = (
        int(count) == 1
        and listener.family == socket.AF_UNIX
        and listener.type == socket.SOCK_STREAM
        and listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    )
    if not good:
        listener.close()
        raise StartError(
            "systemd passed something else than one listening Unix stream socket",
            "whyidled.socket needs exactly one ListenStream=, with a path",
            2,
        )
    name = listener.getsockname()
    try:
        if isinstance(name, str) and name:  # and not an abstract one
            _lock(Path(name))
    except OSError as error:
        log.debug("no lock beside %s: %s", name, error.strerror)
    except StartError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def connected(fd: int) -> socket.socket:
    try:
        connection = socket.socket(fileno=fd)
        connection.getpeername()
    except OSError as error:
        message = f"file descriptor {fd} is not a connected socket: {error.strerror}"
        raise StartError(message, "--connection-fd is for whyidle run; use --socket", 2) from None
    connection.setblocking(False)
    return connection


def _lock(path: Path) -> None:
    """Keep other daemons from serving this file, until this process ends, however it ends. Raises OSError."""
    lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise _taken(path) from None
    _locks.append(lock)


def unlock() -> None:
    """Let another daemon serve, from now on: the end of this one may take as long as the kernel likes."""
    while _locks:
        os.close(_locks.pop())


def _taken(path: Path) -> StartError:
    return StartError(f"another whyidled serves {path}", "use that one, or give this one its own --socket")


def _is_served(path: Path) -> bool:
    """Whether somebody listens there: systemd perhaps, for a service that has not begun yet."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.setblocking(False)
        return client.connect_ex(str(path)) not in (errno.ECONNREFUSED, errno.ENOENT)


def bind(path: Path, group: str) -> socket.socket:
    """Listen on the socket file. One left by a dead daemon is replaced, a live daemon's is not."""
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _lock(path)
    except OSError as error:
        raise StartError(
            f"cannot use {path.parent}: {error.strerror}", "run it as root, or give --socket another place"
        ) from None
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_symlink() or path.exists():
            if not stat.S_ISSOCK(path.lstat().st_mode):
                raise StartError(
                    f"{path} exists and is no socket", "give --socket another place, or remove it"
                )
            if _is_served(path):
                raise _taken(path)
            path.unlink()
        old = os.umask(0o117)
        try:
            listener.bind(str(path))
        finally:
            os.umask(old)
        _hand_to(group, path)
        listener.listen(64)
    except StartError:
        listener.close()
        raise
    except OSError as error:
        listener.close()
        hint = "give --socket a shorter path" if error.errno == errno.ENAMETOOLONG else "check the directory"
        raise StartError(f"cannot listen on {path}: {error.strerror or error}", hint) from None
    listener.setblocking(False)
    return listener


def _hand_to(group: str, path: str | Path) -> bool:
    """Whether the socket is that group's, now or before. A group that does not exist has no members."""
    try:
        wanted = grp.getgrnam(group).gr_gid
        if os.stat(path).st_gid != wanted:  # noqa: PTH116 (may be bytes)
            os.chown(path, -1, wanted)
    except KeyError:
        return True
    except OSError:
        return False
    return True


def remove(path: Path, made: File) -> None:
    """Take our socket's file away, but not one that is there instead: systemd replaces what it finds."""
    with contextlib.suppress(OSError):
        if _file(path) == made:
            path.unlink()


def _file(path: Path) -> File:
    found = path.lstat()
    return found.st_dev, found.st_ino


def open_to(listener: socket.socket, everybody: bool, group: str) -> None:
    """Let everybody connect, or the owner and the group alone. What they may ask for is decided later."""
    path = listener.getsockname()
    with contextlib.suppress(OSError):
        os.chmod(path, 0o666 if everybody else 0o660)  # noqa: PTH101 (may be bytes)
    if not everybody and not _hand_to(group, path):
        log.warning(
            "members of %s cannot connect: the socket is another group's; for systemd's, "
            "systemctl edit whyidled.socket, [Socket] SocketGroup=%s, and restart it",
            group,
            group,
        )
