"""read_page: what a page can be, where it may lead, and that both ways of reading say the same."""

import ipaddress
import socket
import struct
import time
from collections.abc import Callable
from html.parser import HTMLParser
from socketserver import StreamRequestHandler
from typing import Any

import pytest
from agent_fakes import raw_server, silence
from hypothesis import example, given
from hypothesis import strategies as st

from whyidle_agent import pages
from whyidle_agent.async_web import AsyncWeb
from whyidle_agent.html_text import _Words, words_of
from whyidle_agent.pages import MAX_PAGE_BYTES, read_page
from whyidle_agent.slow_search import Behaviour, SearchServer
from whyidle_agent.stats import Stats
from whyidle_agent.tools import Observation, search_web

HTML = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n"
Reply = bytes | Callable[[StreamRequestHandler], None]


def both(url: str, search_url: str, timeout_s: float = 5) -> Observation:
    """Read a page in both ways, which have to agree."""
    alone = read_page(url, search_url, timeout_s)
    with AsyncWeb(search_url, timeout_s) as web:
        [(together, _)] = web.read([url], Stats(), 1)
    assert together == alone
    return alone


def test_a_page_is_its_words() -> None:
    """Title and text of the bundled page; no script, no style, no markup."""
    with SearchServer("127.0.0.1", 0, Behaviour(0.01)) as server:
        seen = both(f"{server.url}/pages/why-a-gpu-sits-idle", server.url)
        missing = both(f"{server.url}/pages/no-such-page", server.url)
    assert seen.ok
    assert seen.text.startswith("Why a GPU sits idle: Home Why a GPU sits idle A GPU is idle when no thread")
    assert "console" not in seen.text
    assert "margin" not in seen.text
    assert missing == Observation("the page cannot be read: the server answered HTTP 404", ok=False)


def flood(handler: StreamRequestHandler) -> None:
    handler.wfile.write(HTML)
    for _ in range(10):
        handler.wfile.write(b"<p>x</p>" * (1 << 17))


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (HTML + b"<title>T</title>caf\xe9 \xff\xfe", "T: caf\ufffd"),
        (HTML + b"<meta charset=latin-1>caf\xe9", "caf\u00e9"),
        (HTML + b"<meta charset=nonsense>plain", "plain"),
        (HTML + b"<div>" * 200_000 + b"deep", "deep"),
        (HTML + b"<style>p{}<script>never closed", "an empty page"),
        (flood, "x x x"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: application/pdf\r\n\r\n%PDF", "not text but application/pdf"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n<b>as it is</b>", "<b>as it is</b>"),
        (HTML.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n") + b"\x1f\x8b", "compressed"),
        (b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n", "redirects without end"),
        (
            b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n",
            "not an address",
        ),
        (
            "HTTP/1.1 302 F\r\nLocation: http://\u2100@e.com/\r\nContent-Length: 0\r\n\r\n".encode(),
            "not an address",
        ),
        (b"HTTP/1.1 302 F\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n", "not public"),
        (b"HTTP/1.1 302 F\r\nLocation: http://localhost:1/\r\nContent-Length: 0\r\n\r\n", "not public"),
        (b"\x00garbage\r\n\r\n", "failed"),
        (silence, "no answer within 0.3 s"),
    ],
)
def test_whatever_a_server_sends_is_an_observation(reply: Reply, says: str) -> None:
    """Bad bytes, no end, other kinds, ways into this network: said in the same words either way."""
    with raw_server(reply) as url:
        seen = both(f"{url}/", url, 0.3 if reply is silence else 20)
    assert says in seen.text


def hints(handler: StreamRequestHandler) -> None:
    while True:
        handler.wfile.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        time.sleep(0.01)


def dripping_head(handler: StreamRequestHandler) -> None:
    for byte in HTML[:-2] + b"X: " + b"x" * 50_000:
        handler.wfile.write(bytes([byte]))
        time.sleep(0.01)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("reply", [hints, dripping_head])
def test_a_head_without_end_ends_at_the_timeout(reply: Reply) -> None:
    """The timeout is of the whole answer, whatever keeps coming before its first word."""
    with raw_server(reply) as url:
        assert both(f"{url}/", url, 0.5).text == "the page: no answer within 0.5 s"
        assert search_web("q", url, 0.5).text == "the search: no answer within 0.5 s"


@pytest.mark.parametrize("reset", [False, True])
def test_what_the_system_says_of_a_connection_is_said_in_one_way(reset: bool) -> None:
    """Nobody who listens, and one who hangs up at once: the same words, from either library."""
    with raw_server(hang_up) as url:
        seen = both(f"{url}/", url) if reset else None
    seen = seen or both(f"{url}/", url)
    wanted = "Connection reset by peer" if reset else "Connection refused"
    assert seen == Observation(f"the page failed: {wanted}", ok=False)


def hang_up(handler: StreamRequestHandler) -> None:
    """Close with RST instead of FIN."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:10.0.0.1]/",
        "http://0.0.0.0/",
        "http://10.0.0.1/",
        "http://192.168.1.1/x",
        "http://169.254.169.254/latest/meta-data",
        "http://2130706433/",
        "http://127.1/",
        "http://localhost/",
        "ftp://example.org/",
        "file:///etc/passwd",
        "http://user:secret@example.org/",
        "http://",
        "http://[::1",
        "http://x:99999/",
        "nonsense",
        "http://" + "a" * 3000,
    ],
)
def test_what_is_inside_is_not_read(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """This host, private networks, a cloud's metadata, other schemes: refused before anything is sent."""
    monkeypatch.setattr(pages.httpx, "Client", None)  # to be called is to fail
    assert "cannot be read" in read_page(url, "http://127.0.0.1:8888", 5).text


def test_a_name_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The address that was checked is the one that is asked, with the name for TLS and the Host header."""
    place = pages.place_of("https://example.org/a?b=c#d", "http://127.0.0.1:8888")
    found: Any = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.215.14", 443))]
    request = pages.request_of(place, found)
    assert request["url"] == "https://93.184.215.14:443/a?b=c"
    assert request["headers"]["Host"] == "example.org"
    assert request["extensions"] == {"sni_hostname": "example.org"}
    rebound: Any = [*found, (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", 443))]
    with pytest.raises(pages.RefusedError):
        pages.request_of(place, rebound)


@given(st.text())
def test_any_text_is_read(page: str) -> None:
    """No page makes the reader raise."""
    words_of(page)


SLOW = [
    "<a ",
    "<!--",
    "<?",
    "<!x",
    "</a",
    "<![CDATA[",
    "<![CDATA[>",
    "<a b='",
    '<a b=">" ',
    "<a b=\"><a c='>",
]
SLOW += [
    "<script>",
    "</",
    "&#",
    "&amp",
    "<a =",
    "<",
    "< >",
    "<p>",
    "<title>",
    "-->",
    "<!-- -",
    "<a/",
    "<a b=c/>",
    '=""',
    " b=c",
    "='",
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("end", ["", ">", '"', "'>", "-->"])
@pytest.mark.parametrize("pattern", SLOW)
@pytest.mark.parametrize("start", ["", "<a "])
def test_no_page_takes_more_than_its_length(start: str, pattern: str, end: str) -> None:
    """Four times as much of what is never closed takes about four times as long, not sixteen."""
    short, long = (
        start + pattern * (size // len(pattern)) + end for size in (MAX_PAGE_BYTES // 16, MAX_PAGE_BYTES // 4)
    )

    def took(page: str) -> float:
        started = time.thread_time()
        words_of(page)
        return time.thread_time() - started

    assert took(long) < 8 * min(took(short), took(short)) + 0.02


class Reference(HTMLParser):
    """What the standard library's parser makes of a page, in the same words."""

    def __init__(self) -> None:
        super().__init__()
        self.words = _Words()
        self.handle_data = self.words.data  # type: ignore[method-assign]

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.words.start(tag)

    def handle_endtag(self, tag: str) -> None:
        self.words.end(tag)


WORDS = st.text(" abz&;#'\"=/!-\n\u00e9", max_size=12)
VALUES = st.text(" abz>&;#=/<!-", max_size=8)
ATTRIBUTES = st.lists(
    st.one_of(
        st.builds(' a="{}"'.format, VALUES),
        st.builds("\nb = '{}'".format, VALUES),
        st.builds(" c={}".format, st.text("abz0/", min_size=1, max_size=5)),
        st.just(" checked"),
    ),
    max_size=3,
).map("".join)
TAGS = st.sampled_from(["p", "b", "DIV", "svg", "object", "head", "body", "td", "noscript", "x-y"])
MARKUP = st.recursive(
    st.one_of(
        WORDS,
        st.builds("<title>{}</title>".format, WORDS),
        st.builds("<!-- {} -->".format, st.text(" ab<>&", max_size=8)),
        st.sampled_from(["<!DOCTYPE html>", "<?xml version='1.0'?>", "&amp;", "&#8364;", "&notit;", "a < b"]),
        st.builds("<{}{}>".format, st.sampled_from(["br", "IMG", "hr"]), ATTRIBUTES),
        st.builds("<{}{} />".format, TAGS, ATTRIBUTES),
        st.builds("<script{}>{}</script>".format, ATTRIBUTES, st.text(" ab<>&'\"/", max_size=12)),
    ),
    lambda inner: st.builds(
        lambda tag, attributes, parts: f"<{tag}{attributes}>{''.join(parts)}</{tag}>",
        TAGS,
        ATTRIBUTES,
        st.lists(inner, max_size=4),
    ),
    max_leaves=12,
)


@given(MARKUP)
def test_an_ordinary_page_is_what_the_standard_library_reads(page: str) -> None:
    """Elements, attributes, comments, references and scripts that end: the same words."""
    reference = Reference()
    reference.feed(page)
    reference.close()
    assert words_of(page) == ("".join(reference.words.title), "".join(reference.words.text))


@pytest.mark.parametrize(
    ("page", "says"),
    [
        ("a<![x>b<![ >c", "abc"),
        ("a&#" + "9" * 5000 + ";b", "a\ufffdb"),
        ("a<!-- b > c", "a"),
        ("a<b c='d>e</b>f", "aef"),
        ("a<script src=x/>b</script>c<script src='x'/>d", "acd"),
        ("1 <b and no end", "1 <b and no end"),
        ('a<b href=/s?q="foo>one</b> and <b href="b">two</b> c', "aone and two c"),
        ("<b href=/s?t='>one</b> and <b c='d'>two</b>", "one and two"),
        ('<b href=http://x/?a="b>c">t</b>', 'c">t'),
        ('<b class=\'x>one</b><b title="a > b">two</b>', "onetwo"),
    ],
)
def test_what_is_wrong_with_a_page_is_passed_over(page: str, says: str) -> None:
    """Unknown sections, absurd numbers, quotes and comments that never end."""
    assert words_of(page) == ("", says)


@given(st.ip_addresses())
@example(ipaddress.ip_address("::ffff:224.0.0.1"))
def test_only_public_addresses_are_asked(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """Whatever a name leads to, either it is public or nothing is sent."""
    place = pages.place_of("http://example.org/", "http://127.0.0.1:8888")
    found: Any = [(0, 0, 0, "", (str(address), 80))]
    reached = getattr(address, "ipv4_mapped", None) or address
    if reached.is_global and not reached.is_multicast:
        assert str(address) in pages.request_of(place, found)["url"]
    else:
        with pytest.raises(pages.RefusedError):
            pages.request_of(place, found)
