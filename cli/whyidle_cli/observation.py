"""One observation through a daemon, from Observe to Report; what ``run`` and ``attach`` have in common."""

from __future__ import annotations

import select
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from whyidle_cli.errors import DaemonGone, NotOurDaemon, ReportLost, from_failure
from whyidle_cli.render.live import Live
from whyidle_cli.signals import Signals
from whyidle_wire.client import Client
from whyidle_wire.errors import Disconnected, WireError
from whyidle_wire.records import Ended, Failure, Finish, Observe, Observing, Progress, Record, Report

INTERRUPTS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

_REQUEST: Final = 1
_START_TIMEOUT_S: Final = 30.0
_REPORT_TIMEOUT_S: Final = 60.0
_LONGEST_S: Final = 3600.0  # of one wait: poll() counts milliseconds in an int, which ends after 24.8 days
_MAX_ARGUMENTS: Final = 1000
_MAX_COMMAND_BYTES: Final = 32 * 1024


def shown_command(command: Sequence[str]) -> tuple[str, ...]:
    """The command as far as it fits a message; a cut is marked by a last argument ``…``."""
    kept: list[str] = []
    left = _MAX_COMMAND_BYTES
    for argument in command:
        left -= len(argument.encode("utf-8", "replace"))
        if left < 0 or len(kept) == _MAX_ARGUMENTS:
            return (*kept, "…")
        kept.append(argument)
    return tuple(kept)


class Observation:
    """Talks to the daemon about one target. ``ended`` is set when all its processes have gone.

    ``lost`` is set when the connection fails; the observation is over then, but nothing is raised before
    :meth:`finish`, because the observed command must run on to its end.
    """

    def __init__(self, client: Client, live: Live) -> None:
        self._client = client
        self._live = live
        self._id = 0
        self._report: dict[str, Any] | None = None
        self.ended: Ended | None = None
        self.lost: WireError | None = None

    def start(self, pids: Sequence[int], command: Sequence[str], record: Path | None = None) -> Observing:
        """Ask for ``pids`` and their descendants, wait until they are observed.

        ``record`` is where the daemon writes a recording (absolute).

        Raises DaemonRefused, HostCannotRun, NotOurDaemon or DaemonGone.
        """
        first, *others = pids
        deadline = time.monotonic() + _START_TIMEOUT_S
        try:
            self._client.send(
                Observe(
                    _REQUEST,
                    first,
                    shown_command(command),
                    self._live.interval_s,
                    str(record) if record is not None else None,
                    tuple(others),
                )
            )
        except WireError as error:
            if not isinstance(error, Disconnected):
                raise DaemonGone(str(error)) from None
            # What the daemon said before it closed is waiting to be read.
        while True:
            try:
                answer = self._client.receive(max(0.0, deadline - time.monotonic()))
            except Disconnected as error:
                raise DaemonGone(str(error)) from None
            except WireError as error:
                raise NotOurDaemon(str(error)) from None
            if answer is None:
                raise DaemonGone(f"the daemon did not begin to observe within {_START_TIMEOUT_S:g} s")
            if isinstance(answer, Failure) and answer.request in (0, _REQUEST):
                raise from_failure(answer)
            if isinstance(answer, Observing) and answer.request == _REQUEST:
                self._id = answer.observation
                self._take()  # what came with it makes the socket readable no more
                return answer

    def wait(self, signals: Signals, deadline: float | None = None, process: int | None = None) -> list[int]:
        """Wait until something happens: a signal, the end of ``process`` (a pidfd), a record, the deadline.

        Takes the records; returns the signals that came. ``deadline`` is on ``time.monotonic()``; the wait
        may be over before a distant one.
        """
        poller = select.poll()
        poller.register(signals, select.POLLIN)
        if process is not None:
            poller.register(process, select.POLLIN)
        if self.lost is None:
            poller.register(self._client, select.POLLIN)
        left = None if deadline is None else min(max(0.0, deadline - time.monotonic()), _LONGEST_S) * 1000
        poller.poll(left)
        self._take()
        return signals.take()

    def finish(self, signals: Signals, exit_status: int | None) -> dict[str, Any]:
        """End the observation; returns its report. Raises ReportLost; KeyboardInterrupt for a signal."""
        deadline = time.monotonic() + _REPORT_TIMEOUT_S
        signals.take()  # the Ctrl-C that ended the command is not one that gives up the report
        if self.lost is None:
            try:
                self._client.send(Finish(self._id, exit_status))
            except WireError as error:
                self.lost = error
        self._take()
        while self._report is None:
            if self.lost is None and time.monotonic() >= deadline:
                self.lost = Disconnected(f"the daemon did not send it within {_REPORT_TIMEOUT_S:g} s")
            if self.lost is not None:
                raise ReportLost(str(self.lost), exit_status)
            if self.wait(signals, deadline):
                raise KeyboardInterrupt
        return self._report

    def _take(self) -> None:
        try:
            while self.lost is None and (record := self._client.receive(0)) is not None:
                self._handle(record)
        except WireError as error:
            self.lost = error

    def _handle(self, record: Record) -> None:
        match record:
            case Progress() if record.observation == self._id:
                self._live.update(record)
            case Ended() if record.observation == self._id:
                self.ended = record
            case Report() if record.observation == self._id:
                self._report = record.report
            case Failure():
                self.lost = Disconnected(record.message)
            case _:
                pass  # a newer daemon may say more
