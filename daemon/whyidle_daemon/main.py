"""whyidled: the daemon. Run by systemd, or by ``whyidle run`` for the length of one observation."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import fcntl
import grp
import logging
import os
import signal
import socket
import stat
import sys
from pathlib import Path

import uvloop

from whyidle_daemon.kernel import Kernel
from whyidle_daemon.proc import Proc
from whyidle_daemon.server import DEFAULT_STALL_S, VERSION, Server
from whyidle_daemon.targets import Targets
from whyidle_probes.loader import LoaderError, ProbeConfig, load_probes

DEFAULT_SOCKET = Path("/run/whyidle/whyidle.sock")
GROUP = "whyidle"
EXIT_HOST = 3
log = logging.getLogger("whyidled")

EXAMPLES = """\
examples:
  whyidled                            serve on /run/whyidle/whyidle.sock
  whyidled --socket /tmp/w.sock -v    serve elsewhere, and say what is going on
"""


class StartError(Exception):
    """The daemon cannot start: what happened, what to do, and the exit code."""

    def __init__(self, message: str, fix: str, code: int = 1) -> None:
        super().__init__(message)
        self.fix = fix
        self.code = code


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code: 0 stopped, 1 failed, 2 usage, 3 this host cannot."""
    options = _parser().parse_args(arguments)
    level = logging.INFO if options.verbose else logging.WARNING
    logging.basicConfig(level=level, format="whyidled: %(levelname)s: %(message)s", stream=sys.stderr)
    try:
        return uvloop.run(_serve(options))
    except StartError as error:
        print(f"whyidled: {error}\n  {error.fix}", file=sys.stderr)
        return error.code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="whyidled",
        description="Observe processes with eBPF and answer whyidle's commands on a Unix socket.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--socket", type=Path, default=DEFAULT_SOCKET, metavar="PATH", help="where to listen")
    parser.add_argument(
        "--connection-fd", type=int, metavar="FD", help="serve one client on this connected socket, then end"
    )
    parser.add_argument(
        "--max-threads", type=_count, default=16384, metavar="N", help="threads tracked at once"
    )
    parser.add_argument(
        "--stall-threshold",
        type=_seconds,
        default=DEFAULT_STALL_S,
        metavar="S",
        help="report a wait that lasts this long while it lasts (default: 1)",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log what is going on")
    parser.add_argument("--version", action="version", version=f"whyidled {VERSION}")
    return parser


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.05 <= value <= 86400:  # NaN is neither
        raise argparse.ArgumentTypeError("must be between 0.05 and 86400 seconds")
    return value


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 1 << 20:
        raise argparse.ArgumentTypeError("must be between 1 and 1048576")
    return value


async def _serve(options: argparse.Namespace) -> int:
    loop = asyncio.get_running_loop()
    private = options.connection_fd is not None
    listener = None if private else _bind(options.socket)
    try:
        probes = load_probes(ProbeConfig(max_threads=options.max_threads))
    except LoaderError as error:
        if listener is not None:
            _remove(options.socket)
        raise StartError(str(error), error.fix, EXIT_HOST) from None
    proc = Proc()
    targets = Targets(lambda on_event: Kernel(probes, on_event, os.getpid()), proc)
    over = asyncio.Event()
    server = Server(targets, proc, on_idle=over.set if private else None, stall_s=options.stall_threshold)
    server.start()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    if private:
        # A Ctrl-C is for the observed command; this daemon ends when its only client is gone.
        loop.add_signal_handler(signal.SIGINT, lambda: None)
        await loop.create_unix_connection(server.connection, sock=_connected(options.connection_fd))
    else:
        assert listener is not None
        await loop.create_unix_server(server.connection, sock=listener)
    log.info(
        "probes attached%s", f"; this kernel lacks {', '.join(probes.missing)}" if probes.missing else ""
    )
    _notify_ready()
    try:
        await over.wait()
    finally:
        server.close()
        targets.libraries.close()
        targets.kernel.close()
        if not private:
            _remove(options.socket)
    return 0


def _connected(fd: int) -> socket.socket:
    try:
        connection = socket.socket(fileno=fd)
        connection.getpeername()
    except OSError as error:
        message = f"file descriptor {fd} is not a connected socket: {error.strerror}"
        raise StartError(message, "--connection-fd is for whyidle run; use --socket", 2) from None
    connection.setblocking(False)
    return connection


def _bind(path: Path) -> socket.socket:
    """Listen on the socket file. One left by a dead daemon is replaced, a live daemon's is not."""
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartError(
            f"cannot use {path.parent}: {error.strerror}", "run it as root, or give --socket another place"
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held until this process ends, however it ends
    except OSError:
        raise StartError(
            f"another whyidled serves {path}", "use that one, or give this one its own --socket"
        ) from None
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_symlink() or path.exists():
            if not stat.S_ISSOCK(path.lstat().st_mode):
                raise StartError(
                    f"{path} exists and is no socket", "give --socket another place, or remove it"
                )
            path.unlink()
        old = os.umask(0o117)
        try:
            listener.bind(str(path))
        finally:
            os.umask(old)
        _hand_to_group(path)
        listener.listen(64)
    except OSError as error:
        listener.close()
        hint = "give --socket a shorter path" if error.errno == errno.ENAMETOOLONG else "check the directory"
        raise StartError(f"cannot listen on {path}: {error.strerror or error}", hint) from None
    listener.setblocking(False)
    return listener


def _hand_to_group(path: Path) -> None:
    with contextlib.suppress(KeyError, PermissionError):
        os.chown(path, -1, grp.getgrnam(GROUP).gr_gid)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _notify_ready() -> None:
    """Tell systemd that the probes are attached, if it asked."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        if address.startswith("@"):
            address = "\0" + address[1:]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, contextlib.suppress(OSError):
            notify.sendto(b"READY=1", address)


if __name__ == "__main__":
    sys.exit(main())
