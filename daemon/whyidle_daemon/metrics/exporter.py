"""Brings the observations into the ledger when somebody scrapes, and at their end.

A report costs a millisecond or a few for each target. They are made at most once a second, and less often if
they cost more than a hundredth of the time: a hundred scrapes per second are a hundred copies of one page.
Without a scrape nothing is done at all but at the end of an observation.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from whyidle_daemon.config import Metrics
from whyidle_daemon.discovery.watcher import Discovery
from whyidle_daemon.kernel import Kernel
from whyidle_daemon.metrics.exposition import CONTENT_TYPE, Own, page
from whyidle_daemon.metrics.http import Endpoint
from whyidle_daemon.metrics.ledger import Ledger
from whyidle_daemon.metrics.workloads import workload_of
from whyidle_daemon.sessions import Session, Sessions
from whyidle_probes.events import Inference, Stat

log = logging.getLogger(__name__)

REFRESH_S: Final = 1.0
COST_SHARE: Final = 0.01
_LOST: Final = tuple(stat for stat in Stat if stat.name.endswith("_LOST"))


class Exporter:
    """The metrics of a running daemon, as long as they are configured."""

    def __init__(
        self,
        config: Metrics,
        sessions: Sessions,
        discovery: Discovery | None,
        kernel: Kernel,
        status: Callable[[], tuple[str, int]],
    ) -> None:
        """``status`` gives the version and the number of clients."""
        self._sessions, self._discovery, self._kernel = sessions, discovery, kernel
        self._status = status
        self.config = config
        self._ledger = Ledger(config.max_workloads, config.functions)
        self._names: dict[int, str] = {}
        self._endpoint = Endpoint(self._page, CONTENT_TYPE)
        self._body = b""
        self._due_s = 0.0
        self._refresh_s = 0.0
        self.port = 0

    async def start(self) -> None:
        """Listen. Raises OSError."""
        host, port = self.config.address
        self.port = await self._endpoint.listen(host, port)
        log.info("metrics on http://%s:%d/metrics", f"[{host}]" if ":" in host else host, self.port)
        if not self.config.loopback:
            log.warning(
                "metrics: whoever reaches %s can read them; the shipped unit keeps other hosts out unless "
                "IPAddressAllow= names them (systemctl edit whyidled)",
                host,
            )

    def close(self) -> None:
        """Listen no more."""
        self._endpoint.close()

    def ended(self, session: Session, goes_on: bool) -> None:
        """An observation ends, or is cut and ``goes_on``: its last sums count."""
        try:
            self._update(session)
            self._last_inferences(session, goes_on)
        except Exception:  # a mistake in the numbers must not keep an observation from ending
            log.exception("the last sums of an observation are not in the metrics")
        if goes_on:
            self._ledger.cut(session.target.number)
        else:
            self._ledger.end(session.target.number)
            self._names.pop(session.target.number, None)

    def inference(self, inference: Inference) -> None:
        """An inference has ended, and another begun."""
        name = self._names.get(inference.target)
        if name is None:
            session = self._sessions.get(inference.target)
            name = self._name(session) if session is not None else None
        if name is not None:
            self._inference(name, inference.start_ns, inference.end_ns)

    def _last_inferences(self, session: Session, goes_on: bool) -> None:
        """Those that nothing followed, which would have told of them, and nothing can follow any more."""
        number = session.target.number
        alive = self._kernel.processes(number) if goes_on else []
        for engine in self._kernel.engines(number):
            if engine.run_end_ns and not engine.busy and engine.pid not in alive:
                self._inference(self._name(session), engine.run_start_ns, engine.run_end_ns)

    def _inference(self, workload: str, start_ns: int, end_ns: int) -> None:
        self._ledger.inference(workload, (end_ns - start_ns) / 1e9, time.monotonic())

    def _page(self) -> bytes:
        now = asyncio.get_running_loop().time()
        if now >= self._due_s:
            for session in self._sessions:
                self._update(session)
            for number in self._names.keys() - {session.target.number for session in self._sessions}:
                del self._names[number]
            self._body = page(self._ledger, self._own)
            self._refresh_s = asyncio.get_running_loop().time() - now
            self._due_s = now + max(REFRESH_S, self._refresh_s / COST_SHARE)
        return self._body

    def _update(self, session: Session) -> None:
        report = session.target.report()
        self._ledger.update(session.target.number, self._name(session), report, time.monotonic())

    def _name(self, session: Session) -> str:
        number = session.target.number
        if number not in self._names:
            found = self._discovery.of(session) if self._discovery is not None else None
            rule = found.rule if found is not None else None
            self._names[number] = workload_of(session.target.observation.cgroup, rule)
        return self._names[number]

    def _own(self) -> Own:
        version, clients = self._status()
        run_ns = self._kernel.run_ns()
        return Own(
            version,
            time.process_time(),
            _resident(),
            run_ns / 1e9 if run_ns else None,
            {stat.name.removesuffix("_LOST").lower(): self._kernel.stat(stat) for stat in _LOST},
            clients,
            self._refresh_s,
        )


def _resident() -> int:
    with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 (once a second, without a Path)
        return int(file.read().split()[1]) * 4096
