"""Where the metrics are served: tried again until it can be listened on, and the old goes on until then."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import uvloop

from whyidle_daemon import exporting as module
from whyidle_daemon.config import Metrics
from whyidle_daemon.exporting import Exporting

HOST = "127.0.0.1"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.01)


def scene(test: Callable[[Exporting, Any], Awaitable[None]]) -> None:
    async def run() -> None:
        targets = SimpleNamespace(kernel=None, on_inference=None)
        exporting = Exporting(cast("Any", targets), cast("Any", SimpleNamespace()), None, lambda: 0)
        try:
            await test(exporting, targets)
        finally:
            exporting.close()
            await asyncio.sleep(0.05)

    uvloop.run(run())


def taken() -> tuple[socket.socket, int]:
    listener = socket.create_server((HOST, 0))
    return listener, listener.getsockname()[1]


def at(port: int, *, functions: bool = False) -> Metrics:
    return Metrics(f"{HOST}:{port}", functions)


async def answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return False
    writer.close()
    return True


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [entry.message for entry in caplog.records if entry.levelno >= logging.ERROR]


def test_an_address_that_is_there_later(caplog: pytest.LogCaptureFixture) -> None:
    """At boot the daemon may be earlier than the network. It is said once."""

    async def test(exporting: Exporting, targets: Any) -> None:
        listener, port = taken()
        await exporting.configure(at(port))
        await asyncio.sleep(0.1)
        assert targets.on_inference is None
        assert len(complaints(caplog)) == 1
        listener.close()
        async with asyncio.timeout(10):
            while not await answers(port):
                await asyncio.sleep(0.01)
        assert targets.on_inference is not None

    scene(test)


def test_the_old_goes_on_until_the_new_is_there(caplog: pytest.LogCaptureFixture) -> None:
    async def test(exporting: Exporting, targets: Any) -> None:
        await exporting.configure(at(0))
        assert exporting._exporter is not None
        old = exporting._exporter.port
        listener, port = taken()
        await exporting.configure(at(port))
        assert await answers(old)
        listener.close()
        async with asyncio.timeout(10):
            while not await answers(port):
                await asyncio.sleep(0.01)
        assert not await answers(old)
        assert len(complaints(caplog)) == 1

    scene(test)


def test_a_port_that_the_old_has_itself(caplog: pytest.LogCaptureFixture) -> None:
    """The old one makes room for the new one, and comes back where that cannot listen."""

    async def test(exporting: Exporting, targets: Any) -> None:
        listener, port = taken()
        listener.close()
        await exporting.configure(at(port))
        await exporting.configure(at(port, functions=True))
        assert exporting._exporter is not None
        assert exporting._exporter.config.functions
        assert await answers(port)
        assert not complaints(caplog)
        await exporting.configure(Metrics(f"192.0.2.1:{port}"))  # nobody's
        assert len(complaints(caplog)) == 1
        assert await answers(port)

    scene(test)


@pytest.mark.parametrize("end", ["reload", "close"])
def test_no_more_tries(end: str) -> None:
    """Once nothing is wanted any more."""

    async def test(exporting: Exporting, targets: Any) -> None:
        listener, port = taken()
        await exporting.configure(at(port))
        if end == "reload":
            await exporting.configure(Metrics())
        else:
            exporting.close()
        listener.close()
        await asyncio.sleep(0.1)
        assert not await answers(port)

    scene(test)


def test_two_reloads_at_once() -> None:
    """The later one counts, and nothing of the other stays."""

    async def test(exporting: Exporting, targets: Any) -> None:
        ports = []
        for _ in range(2):
            listener, port = taken()
            listener.close()
            ports.append(port)
        await asyncio.gather(*(exporting.configure(at(port)) for port in ports))
        assert [await answers(port) for port in ports] == [False, True]

    scene(test)
