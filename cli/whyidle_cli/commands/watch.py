"""``whyidle watch``: what the system daemon finds, as it finds it."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable
from typing import Final

from whyidle_cli.commands.options import add_socket_option
from whyidle_cli.connection import ask, require_system_daemon
from whyidle_cli.errors import DaemonGone, NotOurDaemon, WrongUsage, from_failure
from whyidle_cli.output import json_line
from whyidle_cli.render.stream import stream_text
from whyidle_wire.codec import encode
from whyidle_wire.errors import Disconnected, WireError
from whyidle_wire.records import Dropped, Failure, Record, Subscribe, Subscribed
from whyidle_wire.report import FINDING_KINDS

_REQUEST: Final = 1
_MOST_PID: Final = 2**22  # PID_MAX_LIMIT of 64-bit kernels

_DESCRIPTION: Final = """\
Stream the findings of everything that the system daemon observes, and (without
--kind) waits that last, from now on, until Ctrl-C."""

_EPILOG: Final = """\
examples:
  whyidle watch                                        one line per finding
  whyidle watch --json | jq .finding.advice            one JSON object per line
  whyidle watch --kind blocking_network_call --pid 4711

--json writes {"record": NAME, its fields…}; --msgpack the frames of the wire,
which 'whyidle schema' describes.

exit status: 0 at Ctrl-C; 1 if the service ends the connection; 3 if none
answers, or not this user; 141 if whoever reads the output has gone"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object per line")
    form.add_argument("--msgpack", action="store_true", help="length-prefixed msgpack frames, for programs")
    parser.add_argument(
        "--kind", metavar="K", action="append", choices=FINDING_KINDS, default=[],
        help="only this kind of finding (may be repeated): " + ", ".join(FINDING_KINDS),
    )  # fmt: skip
    parser.add_argument("--pid", metavar="P", type=_pid, help="only this process")
    parser.add_argument(
        "--events", action="store_true", help="also every long wait, and processes that come and go"
    )
    add_socket_option(parser)


def _pid(text: str) -> int:
    value = int(text)
    if not 0 < value <= _MOST_PID:
        raise ValueError
    return value


_pid.__name__ = "PID"  # argparse: "invalid PID value: 'x'"


def execute(arguments: argparse.Namespace) -> int:
    """Stream until Ctrl-C; returns 0 then."""
    if arguments.msgpack and sys.stdout.isatty():
        raise WrongUsage(
            "--msgpack writes binary data, and this is a terminal", "send it to a file or a program"
        )
    write = _writer(arguments)
    with require_system_daemon(arguments.socket).client as client:
        subscribe = Subscribe(_REQUEST, tuple(arguments.kind), arguments.pid, arguments.events)
        try:
            ask(client, subscribe, Subscribed)
            while (record := client.receive(None)) is not None:
                if isinstance(record, Failure):
                    raise from_failure(record)
                write(record)
        except Disconnected as error:
            raise DaemonGone(str(error)) from None
        except WireError as error:
            raise NotOurDaemon(str(error)) from None
        except KeyboardInterrupt:
            return 0  # the only way to end a stream is not an error
    return 0


def _writer(arguments: argparse.Namespace) -> Callable[[Record], None]:
    if arguments.msgpack:
        return _write_frame
    return _write_json if arguments.json else _write_text


def _write_frame(record: Record) -> None:
    sys.stdout.buffer.write(encode(record))
    sys.stdout.buffer.flush()


def _write_json(record: Record) -> None:
    assert dataclasses.is_dataclass(record)
    sys.stdout.write(json_line({"record": type(record).__name__, **dataclasses.asdict(record)}))
    sys.stdout.flush()


def _write_text(record: Record) -> None:
    if isinstance(record, Dropped):
        sys.stderr.write(f"whyidle: {record.count} records are missing here: this reader was too slow\n")
        return
    text = stream_text(record)
    if text is not None:
        sys.stdout.write(f"{time.strftime('%H:%M:%S')}  {text}\n")
        sys.stdout.flush()
