"""`read_page`: one page of the web as text, within bounds, and never from inside this network.

Which page is read is decided by a model that has read what strangers wrote. So the address that a name leads
to is checked and then used, not looked up a second time: this host, its private network, a cloud's metadata
service are refused, in the first place and after each redirect. The search server's own pages are the
exception: the person at the keyboard chose it.
"""

import functools
import ipaddress
import re
import socket
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx

from whyidle_agent.deadline import Deadline
from whyidle_agent.html_text import words_of
from whyidle_agent.text import one_line
from whyidle_agent.tools import MAX_LINK, Observation, failed_fetch, late_fetch

MAX_PAGE_BYTES = 1 << 20  # of a longer page the beginning is read
MAX_REDIRECTS = 4
_TEXT = ("text/html", "application/xhtml+xml", "text/plain", "application/json", "text/markdown")
_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([A-Za-z0-9_-]{1,32})""", re.IGNORECASE)

# What socket.getaddrinfo gives.
Found = Sequence[tuple[Any, Any, Any, str, Sequence[Any]]]


class RefusedError(Exception):
    """A page that is not to be read; the reason is for the model."""


@dataclass(frozen=True)
class Place:
    """Where a page is: its address, the name to look up and the port."""

    url: str
    host: str
    port: int
    trusted: bool  # the search server's


def place_of(url: str, search_url: str) -> Place:
    """Return where `url` leads; raises RefusedError when that is no web page."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        raise RefusedError("not an address of a web page") from None
    if len(url) > MAX_LINK or parts.scheme not in ("http", "https") or not host or parts.username:
        raise RefusedError("not an address of a web page")
    own = urlsplit(search_url)
    own_port = own.port or (443 if own.scheme == "https" else 80)
    return Place(url, host, port, (host, port) == (own.hostname, own_port))


def request_of(place: Place, found: Found) -> dict[str, Any]:
    """Return the request for `place` as arguments for httpx, at the first of its addresses that were `found`.

    Raises RefusedError when one of them is not public.
    """
    addresses = [str(entry[4][0]) for entry in found]
    if not addresses:
        raise RefusedError("the name has no address")
    if not place.trusted and not all(map(_is_public, addresses)):
        raise RefusedError("the address is not public")
    parts = urlsplit(place.url)
    at = f"[{addresses[0]}]" if ":" in addresses[0] else addresses[0]
    name = f"[{place.host}]" if ":" in place.host else place.host
    return {
        "method": "GET",
        "url": parts._replace(netloc=f"{at}:{place.port}", fragment="").geturl(),
        # Not compressed: a megabyte on the wire could otherwise be a gigabyte here.
        "headers": {
            "Host": name if parts.port is None else f"{name}:{place.port}",
            "Accept": "text/html, text/plain;q=0.9",
            "Accept-Encoding": "identity",
            "User-Agent": "whyidle-agent",
        },
        "extensions": {"sni_hostname": place.host},
    }


def client_options(url: str, timeout_s: float) -> dict[str, Any]:
    """Return how httpx is to read pages: no proxy, which would look the name up again."""
    verify = _tls() if url.startswith("https:") else False
    return {"timeout": timeout_s, "verify": verify, "trust_env": False}


def redirected(response: httpx.Response, url: str) -> str | None:
    """Return where a response sends its reader, or None; raises RefusedError when it is no page at all."""
    if response.has_redirect_location:
        try:
            return urljoin(url, response.headers["location"])
        except ValueError:
            raise RefusedError("it redirects to what is not an address") from None
    if response.status_code != httpx.codes.OK:
        raise RefusedError(f"the server answered HTTP {response.status_code}")
    kind = response.headers.get("content-type", "text/html").partition(";")[0].strip().lower()
    if kind not in _TEXT:
        raise RefusedError(f"not text but {one_line(kind, 60)}")
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise RefusedError("compressed, though that was not asked for")
    return None


def text_of(response: httpx.Response, body: bytes) -> Observation:
    """Return what a page says: its title and its text."""
    charset = response.charset_encoding or ""
    if not charset and (declared := _CHARSET.search(body[:2048])):
        charset = declared.group(1).decode("ascii")
    try:
        page = body.decode(charset or "utf-8", "replace")
    except LookupError:
        page = body.decode("utf-8", "replace")
    kind = response.headers.get("content-type", "text/html")
    title, text = words_of(page) if "html" in kind else ("", page)
    said = " ".join(f"{title}: {text}".split()) if title.strip() else " ".join(text.split())
    return Observation(said or "an empty page", ok=bool(said))


def refused(error: RefusedError) -> Observation:
    """Return what the model reads of a page that was not read."""
    return Observation(f"the page cannot be read: {error}", ok=False)


def read_page(url: str, search_url: str, timeout_s: float) -> Observation:
    """Read the page at `url`, blocking the calling thread; `timeout_s` bounds all of it, seconds.

    Never raises for what name service, network or server do: every failure is an observation.
    """
    deadline = Deadline(timeout_s)
    try:
        for _ in range(MAX_REDIRECTS + 1):
            place = place_of(url, search_url)
            found = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
            request = request_of(place, found)
            request["extensions"] |= deadline.extensions
            if deadline.left_s <= 0:
                return late_fetch("the page", timeout_s)
            with (
                httpx.Client(**client_options(url, deadline.left_s)) as client,
                client.stream(**request) as response,
            ):
                onward = redirected(response, url)
                if onward is None:
                    return text_of(response, _read(response.iter_raw()))
                url = onward
    except RefusedError as error:
        return refused(error)
    except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
        return failed_fetch("the page", error, timeout_s)
    return refused(RefusedError("it redirects without end"))


def _read(chunks: Iterable[bytes]) -> bytes:
    body = bytearray()
    for chunk in chunks:
        body += chunk
        if len(body) >= MAX_PAGE_BYTES:
            break
    return bytes(body[:MAX_PAGE_BYTES])


def _is_public(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address.is_global and not address.is_multicast


@functools.cache
def _tls() -> ssl.SSLContext:
    return httpx.create_ssl_context()
