"""SNI and Host from the first bytes of a connection, whatever the bytes are."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whyidle_daemon.greetings import MAX_PATH, Greeting, decode

LABEL = "[a-z]([a-z0-9-]{0,20}[a-z0-9])?"
NAMES = st.from_regex(rf"{LABEL}(\.{LABEL}){{1,3}}", fullmatch=True)


def client_hello(name: str | None) -> bytes:
    """What OpenSSL itself writes first."""
    context = ssl.create_default_context()
    context.check_hostname = False
    sent = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return sent.read()


HELLO = client_hello("api.example.com")
NAME_ENDS = HELLO.index(b"api.example.com") + len(b"api.example.com")


@given(NAMES)
def test_the_name_in_a_client_hello(name: str) -> None:
    """Any name, as the library encodes it."""
    assert decode(client_hello(name)) == Greeting(name)


def test_a_client_hello_without_a_name() -> None:
    """No extension, no name."""
    assert decode(client_hello(None)) is None


def test_a_client_hello_cut_anywhere() -> None:
    """The name is there as soon as all of it is, and never a part of it."""
    for end in range(len(HELLO)):
        assert decode(HELLO[:end]) == (Greeting("api.example.com") if end >= NAME_ENDS else None)


def test_lengths_that_lie() -> None:
    """Whatever a byte before the name is changed to: the name, another whole name, or nothing."""
    for at in range(NAME_ENDS - len("api.example.com")):
        for value in range(256):
            found = decode(HELLO[:at] + bytes([value]) + HELLO[at + 1 :])
            assert found is None or found.host in _NAMES_INSIDE


# A shorter length gives a shorter name, which the client might as well have sent.
_NAMES_INSIDE = {"api.example.com"[:end].removesuffix(".") for end in range(1, 16)} | {"api.example.com"}


@pytest.mark.parametrize(
    ("request_", "found"),
    [
        (b"GET /a/b?key=1 HTTP/1.1\r\nHost: Example.COM\r\n\r\n", Greeting("example.com", "/a/b")),
        (b"POST / HTTP/1.0\nhost:example.com:8080\n\n", Greeting("example.com", "/")),
        (b"GET /x#frag HTTP/1.1\r\nA: b\r\nHost: example.com.\r\n", Greeting("example.com", "/x")),
        (b"GET /x HTTP/1.1\r\nHost: 10.0.0.1:80\r\n\r\n", Greeting(None, "/x")),
        (b"GET /x HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", Greeting(None, "/x")),
        (b"GET /x HTTP/1.1\r\nHost: example.co", Greeting(None, "/x")),  # cut in the name
        (b"GET /x HTTP/1.1\r\n\r\nHost: body.example\r\n", Greeting(None, "/x")),  # not a header
        (b"GET /x HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n", Greeting(None, "/x")),
        (b"GET /x HTTP/1.1\r\nHost: user@a.example\r\n", Greeting(None, "/x")),
        (b"GET /x HTTP/1.1\r\nX-Host: a.example\r\n\r\n", Greeting(None, "/x")),
        (b"GET /x HTTP/1.1\r\nHost: \x1b[31m.example\r\n\r\n", Greeting(None, "/x")),
        (b"GET /long", None),
        (b"GET /\x1b[31m HTTP/1.1\r\nHost: a.example\r\n\r\n", None),
        (b"GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n", None),  # to a proxy
        (b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n", None),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", None),
        (b"", None),
    ],
)
def test_requests(request_: bytes, found: Greeting | None) -> None:
    """Host and path of a plain request, the query dropped; what is no name or is cut is none."""
    assert decode(request_) == found


def test_a_path_is_bounded() -> None:
    """However long it is."""
    found = decode(b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\n\r\n")
    assert found is not None
    assert len(found.path or "") == MAX_PATH


@given(st.binary(max_size=600), st.sampled_from([b"", b"\x16\x03\x01", b"GET /", HELLO[:43], HELLO[:90]]))
def test_anything(data: bytes, start: bytes) -> None:
    """No error, no control character."""
    found = decode(start + data)
    if found is not None:
        assert found.host is None or found.host.isprintable()
        assert found.path is None or found.path.isprintable()
