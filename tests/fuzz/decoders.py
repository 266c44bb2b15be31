"""Coverage-guided input for decoders of what targets send: ``python tests/fuzz/decoders.py NAME -runs=N``.

Anything but the decoder's own error ends the process with a status other than 0 (libFuzzer's options apply).
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable

import atheris

with atheris.instrument_imports():
    from whyidle_daemon import greetings
    from whyidle_probes import events


def greeting(data: bytes) -> None:
    """A name and a path of plain characters, or nothing."""
    found = greetings.decode(data)
    if found is None:
        return
    assert found.host is None or (0 < len(found.host) <= 253 and found.host.isascii())
    assert found.host is None or not set(found.host) - set("abcdefghijklmnopqrstuvwxyz0123456789-_.")
    assert found.path is None or (found.path[:1] == "/" and found.path.isascii() and found.path.isprintable())
    assert found.path is None or not set(found.path) & set("?# ")


def event(data: bytes) -> None:
    """An event, or :class:`BadEventError`."""
    with contextlib.suppress(events.BadEventError):
        events.decode_event(data)


DECODERS: dict[str, Callable[[bytes], None]] = {"greeting": greeting, "event": event}

if __name__ == "__main__":
    name = sys.argv.pop(1)
    atheris.Setup(sys.argv, DECODERS[name])
    atheris.Fuzz()
