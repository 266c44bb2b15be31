"""The records that daemon and clients exchange: frozen dataclasses, sent field by field in this order.

Append-only: a new field goes to the end and has a default; a field is never removed, renamed, reordered or
given another type. A new record gets a new number in :mod:`whyidle_wire.kinds`.

Durations and offsets are seconds (float); an offset counts from the start of the observation. Names,
commands and peers come from the observed processes: they are text, but not to be trusted by a terminal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

PROTOCOL: Final = 1
"""Version of the conversation. Raised only for what append-only evolution cannot express."""


class FailureCode:
    """Values of ``Failure.code``. A client treats a code that it does not know like ``INTERNAL``."""

    PROTOCOL: Final = "protocol"  # the client speaks another protocol version, or no Hello came first
    BAD_REQUEST: Final = "bad_request"  # not a record that a client may send, or one that makes no sense now
    NO_PROCESS: Final = "no_process"  # the PID is gone
    KERNEL_THREAD: Final = "kernel_thread"  # the PID is a kernel thread
    HOST: Final = "host"  # this host cannot do it: no BTF, no bcc, no capability, no tracepoint
    PERMISSION: Final = "permission"  # this client may not observe that process
    LIMIT: Final = "limit"  # too many observations or clients
    INTERNAL: Final = "internal"  # the daemon failed


class Record:
    """Base of everything that travels in a frame."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Hello(Record):
    """Client to daemon, first of all. ``client`` names the program and its version, for the daemon's log."""

    protocol: int
    client: str


@dataclass(frozen=True, slots=True)
class Welcome(Record):
    """Daemon to client, the answer to Hello. ``daemon`` is its version, ``host`` the report's ``host``."""

    protocol: int
    daemon: str
    pid: int
    host: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Failure(Record):
    """Daemon to client: request number ``request`` failed (0: the connection itself, which then closes,
    or a record that has no number).

    ``message`` says what happened, ``hint`` what to do about it; each is one line for the user. ``code`` is
    one of ``FailureCode``: ``protocol``, ``bad_request``, ``no_process``, ``kernel_thread``, ``host``,
    ``permission``, ``limit``, ``internal``.
    """

    request: int
    code: str
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Observe(Record):
    """Client to daemon: observe ``pid``, the processes of ``pids`` (64 in all), and their descendants.

    Answered by Observing or Failure, then Progress every ``progress_interval_s`` seconds (0: never), Ended
    when all the processes have gone, and Report after Finish. The observation ends with the connection.
    ``record_path`` asks the daemon to write a recording there (absolute path; None: no recording).
    """

    request: int
    pid: int
    command: tuple[str, ...]
    progress_interval_s: float = 0.5
    record_path: str | None = None
    pids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Observing(Record):
    """Daemon to client: observation number ``observation`` runs and misses nothing from here on.

    ``started_at`` is UTC, RFC 3339. ``processes`` and ``threads`` count what existed then.
    """

    request: int
    observation: int
    started_at: str
    processes: int
    threads: int


@dataclass(frozen=True, slots=True)
class Finish(Record):
    """Client to daemon: end the observation and send its Report.

    ``exit_status`` is the command's status as a shell has it (128 + signal when killed), None if unknown.
    """

    observation: int
    exit_status: int | None = None


@dataclass(frozen=True, slots=True)
class Report(Record):
    """Daemon to client, the answer to Finish: the report object of ``whyidle.report/1``."""

    observation: int
    report: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Progress(Record):
    """Daemon to client, while an observation runs.

    ``engine_busy_share`` is 0 to 1, None as long as there is no engine. ``wait`` says in words what the
    driver thread (or the main thread) is waiting for right now, None when it is not. ``gpus`` are those that
    the target uses: ``{id, busy_share, simulated}``.
    """

    observation: int
    elapsed_s: float
    engine_busy_share: float | None
    wait: str | None
    processes: int
    threads: int
    events_lost: int
    gpus: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Ended(Record):
    """Daemon to client: all observed processes have gone. Finish is still needed to get the Report."""

    observation: int
    exit_status: int | None = None


@dataclass(frozen=True, slots=True)
class Subscribe(Record):
    """Client to daemon: send what all observations find, from now on, to this connection.

    ``kinds`` are finding kinds (empty: all, and StallEvents as well), ``pid`` keeps one process (None: all),
    ``events`` adds slices and process events. Answered by Subscribed or Failure.
    """

    request: int
    kinds: tuple[str, ...] = ()
    pid: int | None = None
    events: bool = False


@dataclass(frozen=True, slots=True)
class Subscribed(Record):
    """Daemon to client: the subscription holds from here on."""

    request: int


@dataclass(frozen=True, slots=True)
class FindingEvent(Record):
    """Daemon to subscriber: a finding as in the report's ``findings``; repeated when its numbers grow
    or its wait has ended."""

    observation: int
    finding: dict[str, Any]


@dataclass(frozen=True, slots=True)
class SliceEvent(Record):
    """Daemon to subscriber: one interval of one thread in one state.

    ``syscall`` is its name, empty when the thread was in none; ``peer`` is ``{host, address, port}`` or None.
    In state ``runqueue``, turns on a shared CPU within 80 ms are one, as long as all of them.
    """

    observation: int
    pid: int
    tid: int
    thread: str
    state: str
    start_s: float
    duration_s: float
    syscall: str
    peer: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ProcessEvent(Record):
    """Daemon to subscriber: ``what`` is ``started``, ``exec`` or ``exited`` (``exit_status`` if known)."""

    observation: int
    what: str
    pid: int
    ppid: int
    command: tuple[str, ...]
    exit_status: int | None = None


@dataclass(frozen=True, slots=True)
class Dropped(Record):
    """Daemon to client: ``count`` records are missing here, because this client read too slowly."""

    count: int


@dataclass(frozen=True, slots=True)
class Status(Record):
    """Client to daemon: how are you? Answered by StatusReply."""

    request: int


@dataclass(frozen=True, slots=True)
class StatusReply(Record):
    """Daemon to client: its version, observations, clients, probes, losses and own cost; an open object."""

    request: int
    status: dict[str, Any]


@dataclass(frozen=True, slots=True)
class StallEvent(Record):
    """Daemon to subscriber: a wait that lasts longer than the daemon's threshold, while it lasts.

    Sent once when it crosses the threshold, or to who subscribes while it lasts, and once more, with
    ``ended``, when it is over. ``start_s`` counts from the start of the observation, ``duration_s`` is so
    far, or in all when it has ended. ``function``, ``file`` and ``line`` are the innermost frame of the
    user's own code, if it was read; ``stack`` has all frames, innermost first.
    """

    observation: int
    pid: int
    tid: int
    thread: str
    state: str
    start_s: float
    duration_s: float
    syscall: str
    peer: dict[str, Any] | None = None
    function: str | None = None
    file: str | None = None
    line: int | None = None
    stack: tuple[str, ...] = ()
    ended: bool = False


@dataclass(frozen=True, slots=True)
class ListTargets(Record):
    """Client to daemon: what is observed, by whom or by which rule? Answered by TargetList or Failure."""

    request: int


@dataclass(frozen=True, slots=True)
class TargetList(Record):
    """Daemon to client: one open object per observation.

    Its keys: ``observation``, ``pid``, ``uid``, ``user``, ``command``, ``container`` (``{runtime, id}``),
    ``pod`` (UID), ``unit``, ``rule`` (by which discovery found it), ``client`` (who asked for it), ``since``
    (UTC, RFC 3339), ``observed_s``, ``processes``, ``threads``, ``engines`` (``{kind, pid, busy, calls}``, of
    a GPU its ``id`` too), ``engine_busy_share`` (0 to 1), ``state`` (where most time went of the threads that
    drive an engine, else of the main thread), ``state_share`` (0 to 1), ``wait`` (as in Progress). None for
    what there is not or is not known.
    """

    request: int
    targets: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Unknown(Record):
    """A record of a kind that this version does not have. Never sent; a reader skips it."""

    kind: int
    fields: tuple[Any, ...]
