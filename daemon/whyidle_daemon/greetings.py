"""The name that a client gives its peer in the first bytes it writes: TLS's SNI, HTTP's Host and path. Pure.

Read as hostile: the bytes may be cut anywhere and lie about every length. Whatever they are, :func:`decode`
raises nothing, takes time in proportion to their number, and returns at most a host name in lower case and a
path without its query, both of plain printable characters. Sources: RFC 8446 4.1.2, RFC 6066 3, RFC 9112 3.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

MAX_PATH: Final = 255
_HANDSHAKE, _CLIENT_HELLO, _SERVER_NAME, _HOST_NAME = 22, 1, 0, 0
_NAME = re.compile(r"(?=.{1,253}\Z)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_-]{1,63}\Z")
_NUMBER = re.compile(r"[0-9.]*\Z")  # an IPv4 address, in whatever form: no name
_REQUEST = re.compile(rb"[A-Z]{3,7} (/[!-~]*) HTTP/1\.[01]\r?\n")
_HOST = re.compile(rb"host:[ \t]*([!-~]*)[ \t]*\r?\Z", re.IGNORECASE)


class Greeting(NamedTuple):
    """``host``: ``None`` for one that is an address. ``path`` is of a request in clear text."""

    host: str | None
    path: str | None = None


def decode(data: bytes) -> Greeting | None:
    """What the beginning of a connection's first write says of the peer; ``None``: nothing."""
    if data[:1] == b"\x16":
        host = _name(_server_name(data))
        return Greeting(host) if host is not None else None
    return _request(data)


class _Short(Exception):  # noqa: N818 (no error: an end that came too soon)
    pass


class _Reader:
    """Takes from the front of what is there, never beyond what an outer length allows."""

    def __init__(self, data: bytes, end: int | None = None) -> None:
        self._data, self._at, self._end = data, 0, len(data) if end is None else end

    @property
    def left(self) -> int:
        return self._end - self._at

    def take(self, count: int) -> bytes:
        end = self._at + count
        if end > self._end or end > len(self._data):
            raise _Short
        found, self._at = self._data[self._at : end], end
        return found

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def inner(self, size: int) -> _Reader:
        """What follows, of the length that stands before it in ``size`` bytes; it may itself be cut."""
        length = self.number(size)
        if length > self.left:
            raise _Short
        rest = self._data[self._at : self._at + length]
        self._at += length
        return _Reader(rest, length)


def _server_name(data: bytes) -> bytes:
    """The first host name of the server_name extension; empty when there is none."""
    try:
        record = _Reader(data, 1 << 20)
        record.take(3)  # content type and version
        hello = record.inner(2)
        if hello.number(1) != _CLIENT_HELLO:
            return b""
        body = hello.inner(3)
        body.take(2 + 32)  # version, random
        for size in (1, 2, 1):  # session, cipher suites, compression
            body.take(body.number(size))
        extensions = body.inner(2)
        while extensions.left:
            kind = extensions.number(2)
            extension = extensions.inner(2)
            if kind == _SERVER_NAME:
                names = extension.inner(2)
                return names.take(names.number(2)) if names.number(1) == _HOST_NAME else b""
    except _Short:
        pass
    return b""


def _request(data: bytes) -> Greeting | None:
    line = _REQUEST.match(data)
    if line is None:  # also what asks a proxy: the peer is not whom it names
        return None
    path = re.split(rb"[?#]", line[1], maxsplit=1)[0].decode("ascii")[:MAX_PATH]
    hosts = []
    lines = data[line.end() :].split(b"\n")
    for header in lines[:-1]:  # the last one may be cut
        if header in (b"", b"\r"):
            break
        found = _HOST.match(header)
        if found:
            hosts.append(found[1])
    host = hosts[0].rpartition(b":") if len(hosts) == 1 else None
    if host is None:
        return Greeting(None, path)
    name = host[0] if host[1] and host[2].isdigit() else hosts[0]
    return Greeting(_name(name), path)


def _name(raw: bytes) -> str | None:
    """A host name as it is shown; ``None`` for what is none, addresses included."""
    try:
        text = raw.decode("ascii").lower().removesuffix(".")
    except UnicodeDecodeError:
        return None
    return text if _NAME.match(text) and not _NUMBER.match(text) else None
