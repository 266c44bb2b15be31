"""The tool `search_web`, a plain synchronous function, as most agents have it; and what a tool gives back.

A tool never raises for what the world does to it. It returns an `Observation` that the model reads in the
next step; that a site is down is information, not the end of the run.
"""

import functools
import ipaddress
import json
import os
import socket
import ssl
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from whyidle_agent.deadline import Deadline
from whyidle_agent.text import for_prompt, one_line

MAX_RESPONSE_BYTES = 1 << 20
MAX_LINK = 2048
_OTHER_NUMBERS = (ssl.SSLError, socket.gaierror)  # whose errno is none of the system's
RESULTS_SHOWN = 3  # of a search; they are numbered, so that a page can be asked for by number


@dataclass(frozen=True)
class Observation:
    """What a tool found out: one line of clean text, and whether the tool did its job."""

    text: str
    ok: bool
    links: tuple[str, ...] = ()  # of a search: the addresses of its results, "" where there is none


def search_web(query: str, base_url: str, timeout_s: float, first: int = 1) -> Observation:
    """Ask a SearxNG-compatible server at `base_url`, blocking the calling thread until it has answered.

    `first`: the number of the first result.
    `timeout_s` bounds connecting, each silence and the whole answer, seconds. Any failure of server or
    network becomes an observation. At most MAX_RESPONSE_BYTES are read.
    """
    deadline, body = Deadline(timeout_s), bytearray()
    request = search_request(query, base_url)
    try:
        with (
            httpx.Client(**httpx_options(base_url, timeout_s)) as client,
            client.stream("GET", **request, extensions=deadline.extensions) as response,
        ):
            if response.status_code != httpx.codes.OK:
                return Observation(f"the search server answered HTTP {response.status_code}", ok=False)
            for chunk in response.iter_raw():
                body += chunk
                if len(body) > MAX_RESPONSE_BYTES:
                    return Observation("the search server's answer is larger than 1 MiB", ok=False)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return failed_search(error, timeout_s)
    return parse_results(bytes(body), first)


def search_request(query: str, base_url: str) -> dict[str, Any]:
    """Return one search as the arguments of a request."""
    return {
        "url": f"{base_url}/search",
        "params": {"q": query, "format": "json"},
        # Not compressed: a megabyte on the wire could otherwise be a gigabyte here.
        "headers": {"Accept": "application/json", "Accept-Encoding": "identity"},
    }


def httpx_options(base_url: str, timeout_s: float) -> dict[str, Any]:
    """Return how httpx is to reach `base_url`."""
    return {
        "timeout": timeout_s,
        # Loading the certificates takes 20 ms of CPU, so only where they are used.
        "verify": _tls() if base_url.startswith("https:") else False,
        "trust_env": not _is_loopback(base_url),  # a proxy has no way to reach this host's loopback
    }


def failed_search(error: Exception, timeout_s: float) -> Observation:
    """Return what the model reads of a search that `error` ended."""
    return failed_fetch("the search", error, timeout_s)


def late_search(timeout_s: float) -> Observation:
    """Return what the model reads of a search that took too long."""
    return late_fetch("the search", timeout_s)


def failed_fetch(what: str, error: Exception, timeout_s: float) -> Observation:
    """Return what the model reads of `what` when `error` ended it."""
    if isinstance(error, httpx.TimeoutException):
        return late_fetch(what, timeout_s)
    reason = _said_by_the_system(error) or one_line(str(error), 120) or type(error).__name__
    return Observation(f"{what} failed: {reason}", ok=False)


def late_fetch(what: str, timeout_s: float) -> Observation:
    """Return what the model reads of `what` when it took too long."""
    return Observation(f"{what}: no answer within {timeout_s:g} s", ok=False)


def parse_results(body: bytes, first: int = 1) -> Observation:
    """Return the observation that a search server's JSON amounts to; anything else is a failed one.

    `first`: the number of the first result.
    """
    try:
        data: Any = json.loads(body)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        return Observation("the search server's answer is not JSON", ok=False)
    results = data.get("results") if isinstance(data, dict) else None
    if not isinstance(results, list):
        return Observation("the search server's answer has no results", ok=False)
    shown, links = [], [""] * RESULTS_SHOWN
    for place, result in enumerate(results[:RESULTS_SHOWN]):
        if isinstance(result, dict) and isinstance(result.get("title"), str):
            content, link = result.get("content"), result.get("url")
            content = for_prompt(content, 300) if isinstance(content, str) else ""
            shown.append(f"{first + place} {for_prompt(result['title'], 80)}: {content}")
            links[place] = link if isinstance(link, str) and len(link) <= MAX_LINK else ""
    return Observation(" / ".join(shown) or "no results", True, tuple(links))


def check_url(url: str) -> str:
    """Return `url` without a trailing slash; raises ValueError when it is no http(s) address."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"not an http(s) address: {url!r}")
    _ = parts.port  # raises ValueError when it is not a port number
    return url.rstrip("/")


def _said_by_the_system(error: BaseException) -> str:
    """Return the system's words for what is behind `error`, each library having its own, or nothing."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, BaseExceptionGroup):  # of the attempts at each of a name's addresses
            cause = cause.exceptions[-1]
        elif isinstance(cause, OSError) and not isinstance(cause, _OTHER_NUMBERS) and cause.errno:
            return os.strerror(cause.errno)
        else:
            cause = cause.__cause__ or cause.__context__  # httpcore raises its own "from None"
    return ""


@functools.cache
def _tls() -> ssl.SSLContext:
    return httpx.create_ssl_context()


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
