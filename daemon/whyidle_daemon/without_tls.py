"""OpenSSL stays out of the daemon, which speaks to nobody over TLS: 4 MB of its 40, and nothing to patch.

uvloop imports Python's ``ssl`` for transports that are never made here, prometheus_client for a server that
is not used, and ``hashlib`` prefers OpenSSL's digests to Python's own. What they get instead has every name
that they ask for, and nothing behind it.
"""

from __future__ import annotations

import sys
from types import ModuleType

_ERRORS = ("SSLError", "SSLZeroReturnError", "SSLSyscallError", "SSLEOFError", "CertificateError")


class _NoTls(ModuleType):
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
    sys.modules.setdefault("ssl", _NoTls("ssl"))
    modules: dict[str, ModuleType | None] = sys.modules  # type: ignore[assignment]
    modules.setdefault("_hashlib", None)  # as documented: an import of it fails
