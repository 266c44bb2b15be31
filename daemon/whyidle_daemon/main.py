"""whyidled: the daemon. Run by systemd, or by ``whyidle run`` for the length of one observation."""

from __future__ import annotations

import argparse
import asyncio
import errno
import logging
import os
import signal
import socket
import sys
from pathlib import Path

import uvloop
from msgspec import structs

from whyidle_daemon import config as configuration
from whyidle_daemon import heap, privileges, sockets, start_priority
from whyidle_daemon.config import Config, ConfigError
from whyidle_daemon.errors import StartError
from whyidle_daemon.kernel import Kernel
from whyidle_daemon.proc import Proc
from whyidle_daemon.reading_guard import ReadingGuard
from whyidle_daemon.recording.output import wait_for_all
from whyidle_daemon.server import Server
from whyidle_daemon.systemd import Watchdog, last_words, notify, reloading, set_up_logging
from whyidle_daemon.targets import Targets
from whyidle_daemon.version import VERSION
from whyidle_probes.loader import LoaderError, ProbeConfig, Probes, load_probes

DEFAULT_SOCKET = Path("/run/whyidle/whyidle.sock")
DEFAULT_CACHE = Path("/var/cache/whyidle")  # the unit's as well: who has installed it need not compile again
EXIT_FAILED, EXIT_HOST = 1, 3
# What no other try can mend: the kernel, what this process may do, what is installed.
_LASTING = frozenset(
    (
        "machine",
        "no_btf",
        "too_old",
        "no_libbpf",
        "no_permission",
        "no_tracepoint",
        "verifier",
        "compile",
        "attach",
    )
)
LAST_WRITES_S = 5.0  # of all recordings together: well within what systemd gives a daemon to end
TRY_AGAIN_S = 5.0  # what is missing may be on its way, or never come: systemd's next try is to cost little
log = logging.getLogger("whyidled")
_tasks: set[asyncio.Task[None]] = set()  # held while they run: the loop alone does not

EXAMPLES = """\
examples:
  whyidled                            serve on /run/whyidle/whyidle.sock
  whyidled --socket /tmp/w.sock -v    serve elsewhere, and say what is going on
  whyidled --check-config             is /etc/whyidle/config.toml good?

SIGHUP reads the configuration again; one with a mistake is refused and logged.

exit status: 0 stopped; 1 failed; 2 wrong usage or a configuration with a
mistake; 3 this host cannot run it
"""


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code: 0 stopped, 1 failed, 2 usage, 3 this host cannot."""
    options = _parser().parse_args(arguments)
    try:
        config = _configured(options)
        if options.check_config:
            print(f"{options.config or configuration.DEFAULT_PATH}: good")
            return 0
        set_up_logging(_level(options, config))
        heap.keep_small()
        return uvloop.run(_serve(options, config))
    except StartError as error:
        last_words(f"whyidled: {error}" + (f"\n  {error.fix}" if error.fix else ""))
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
        "--config", type=Path, metavar="FILE", help=f"configuration (default: {configuration.DEFAULT_PATH})"
    )
    parser.add_argument(
        "--state",
        type=Path,
        metavar="DIR",
        default=os.environ.get("STATE_DIRECTORY"),
        help="where the history is kept (default: $STATE_DIRECTORY, which systemd sets; without: nowhere)",
    )
    parser.add_argument(
        "--cache",
        metavar="DIR",
        help="of root's, for compiled probes, so that the next start is faster (default: $CACHE_DIRECTORY, "
        f"which systemd sets, $WHYIDLE_CACHE/probes, or {DEFAULT_CACHE}; '': they are compiled each time)",
    )
    parser.add_argument("--check-config", action="store_true", help="say whether it is good, and end")
    parser.add_argument(
        "--connection-fd", type=int, metavar="FD", help="serve one client on this connected socket, then end"
    )
    parser.add_argument(
        "--max-threads",
        type=_count,
        metavar="N",
        help="threads tracked at once (default: 16384, or as configured)",
    )
    parser.add_argument(
        "--stall-threshold",
        type=_seconds,
        metavar="S",
        help="report a wait that lasts this long while it lasts (default: 1, or as configured)",
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
    if not 1 <= value <= configuration.MAX_THREADS:
        raise argparse.ArgumentTypeError(f"must be between 1 and {configuration.MAX_THREADS}")
    return value


def _configured(options: argparse.Namespace) -> Config:
    """The file's values, and the command line's over them. A private daemon has no file."""
    if options.connection_fd is not None and options.config is None:
        config = Config()
    else:
        try:
            config = configuration.load(options.config)
        except ConfigError as error:
            which = f" --config {options.config}" if options.config is not None else ""
            fix = f"correct it; whyidled --check-config{which} says whether it is good"
            raise StartError(str(error), "" if options.check_config else fix, 2) from None
    given = {
        "max_threads": options.max_threads,
        "stall_threshold_s": options.stall_threshold,
    }
    daemon = structs.replace(
        config.daemon, **{key: value for key, value in given.items() if value is not None}
    )
    return structs.replace(config, daemon=daemon)


def _level(options: argparse.Namespace, config: Config) -> int:
    """A private daemon speaks only when something is wrong: its words are the command's."""
    if options.connection_fd is not None:
        return logging.INFO if options.verbose else logging.WARNING
    return logging.DEBUG if options.verbose else getattr(logging, config.daemon.log_level.upper())


def _started(state: str, watchdog: Watchdog) -> None:
    log.info(state)
    notify("READY=1", f"STATUS={state}")
    watchdog.start()
    heap.started()
    start_priority.restore()


async def _serve(options: argparse.Namespace, config: Config) -> int:
    loop = asyncio.get_running_loop()
    private = options.connection_fd is not None
    listener: socket.socket | None = None
    made: sockets.File | None = None
    if not private:
        # Until there is something to reload for: it would end the daemon, and that as if it were to end.
        loop.add_signal_handler(signal.SIGHUP, lambda: None)
        listener, made = await _listening(options, config)
    try:
        probes = await _probes(options, config)
    except StartError:
        if listener is not None:
            listener.close()
        if made is not None:
            sockets.remove(options.socket, made)
        raise
    proc = Proc()
    state = None if private or options.state is None else Path(options.state)
    targets = Targets(lambda on_event: Kernel(probes, on_event), proc, ReadingGuard(proc, state).watched())
    over = asyncio.Event()
    serving: asyncio.Server | None = None  # kept: uvloop stops listening when nobody holds it
    server = Server(targets, proc, config, on_idle=over.set if private else None, state=state)
    server.start()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    if private:
        # A Ctrl-C is for the observed command; this daemon ends when its only client is gone.
        loop.add_signal_handler(signal.SIGINT, lambda: None)
        await loop.create_unix_connection(server.connection, sock=sockets.connected(options.connection_fd))
    else:
        assert listener is not None
        sockets.open_to(listener, config.access.others != "none", config.access.group)
        loop.add_signal_handler(signal.SIGHUP, _reload, options, server, listener)
        serving = await loop.create_unix_server(server.connection, sock=listener)
        await server.export(config.metrics)
        heap.fill_names()
    lacks = f"; this kernel lacks {', '.join(probes.missing)}" if probes.missing else ""
    watchdog = Watchdog()
    _started(f"probes attached{lacks}", watchdog)
    try:
        await over.wait()
    finally:
        notify("STOPPING=1")
        watchdog.stop()
        sockets.unlock()
        if serving is not None:
            serving.close()
        server.close()
        targets.close()
        wait_for_all(LAST_WRITES_S)
        if made is not None:
            sockets.remove(options.socket, made)
    return 0


async def _listening(
    options: argparse.Namespace, config: Config
) -> tuple[socket.socket, sockets.File | None]:
    """The socket to serve on. Raises StartError, for systemd after a while: another may end, or never."""
    try:
        return sockets.listening(options.socket, config.access.group)
    except StartError as error:
        await _wait_before_failing(error.code)
        raise


async def _wait_before_failing(code: int) -> None:
    if code == EXIT_FAILED and "NOTIFY_SOCKET" in os.environ:
        await asyncio.sleep(TRY_AGAIN_S)


def _cache(options: argparse.Namespace) -> Path | None:
    """Where compiled probes are kept. The loader looks whether that is root's alone, and compiles if not."""
    if options.cache == "":
        return None
    # In a private daemon's environment that is of the service that `whyidle run` was started by.
    units = os.environ.get("CACHE_DIRECTORY", "").split(":")[0] if options.connection_fd is None else ""
    own = os.environ.get("WHYIDLE_CACHE")
    return Path(options.cache or units or (f"{own}/probes" if own else DEFAULT_CACHE))


async def _probes(options: argparse.Namespace, config: Config) -> Probes:
    """Load them, and give up what only that needs.

    Raises StartError, with a status after which systemd tries again where that may help: the loader may
    have been killed, or a package be replacing it just now. Nobody tries again for a private daemon.
    """
    private = options.connection_fd is not None
    try:
        probes = load_probes(ProbeConfig(max_threads=config.daemon.max_threads, cache=_cache(options)))
    except LoaderError as error:
        lasting = error.code in _LASTING and os.strerror(errno.ENOMEM) not in str(error)
        code = EXIT_HOST if private or lasting else EXIT_FAILED
        await _wait_before_failing(code)
        raise StartError(str(error), error.fix, code) from None
    log.info("compiled probes kept: %s", probes.cache)
    if not private:
        _drop_privileges(probes.uprobe_multi)
    return probes


def _reload(options: argparse.Namespace, server: Server, listener: socket.socket) -> None:
    """SIGHUP: use the file as it is now, or go on as before."""
    reloading()
    try:
        config = _configured(options)
    except StartError as error:
        log.error("not reloaded, the configuration stays as it was: %s", error)
    else:
        logging.getLogger().setLevel(_level(options, config))
        sockets.open_to(listener, config.access.others != "none", config.access.group)
        server.reload(config)
        _tasks.add(task := asyncio.get_running_loop().create_task(server.export(config.metrics)))
        task.add_done_callback(_tasks.discard)
        log.info("configuration reloaded")
    finally:  # whatever fails: without it systemd takes the service for one that hangs
        notify("READY=1")


def _drop_privileges(uprobe_multi: bool) -> None:
    try:
        privileges.drop(privileges.kept(uprobe_multi))
    except OSError as error:
        log.warning("capabilities that are needed no more could not be dropped: %s", error.strerror)


if __name__ == "__main__":
    sys.exit(main())
