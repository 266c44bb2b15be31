"""What libraries import and the daemon never runs stays out of it: 7 MB of its 40, and nothing to patch.

It speaks to nobody over TLS. uvloop imports Python's ``ssl`` for transports that are never made here,
prometheus_client for a server that is not used, with web servers and clients beside it, and ``hashlib``
prefers OpenSSL's digests to Python's own. What they get instead has every name that they ask for, and
nothing behind it.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType

_SERVERS = ("http.server", "wsgiref", "wsgiref.simple_server", "urllib.request", "urllib.error")
_ERRORS = ("SSLError", "SSLZeroReturnError", "SSLSyscallError", "SSLEOFError", "CertificateError")


class _Nothing(ModuleType):
    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        value: object = 0
        if not name.isupper():
            value = type(name, (OSError,) if name in _ERRORS or name.startswith("SSLWant") else (), {})
        setattr(self, name, value)
        return value


def keep_out() -> None:
    """To be called before anything imports ``ssl`` or ``hashlib``."""
    sys.modules.setdefault("ssl", _Nothing("ssl"))
    modules: dict[str, ModuleType | None] = sys.modules  # type: ignore[assignment]
    modules.setdefault("_hashlib", None)  # as documented: an import of it fails


@contextlib.contextmanager
def servers() -> Iterator[None]:
    """What is imported inside for the first time gets no web servers and clients; others do as ever."""
    missing = [name for name in _SERVERS if name not in sys.modules]
    for name in missing:
        sys.modules[name] = _Nothing(name)
    try:
        yield
    finally:
        for name in missing:
            del sys.modules[name]
