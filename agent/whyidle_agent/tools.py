"""The agent's tools: plain synchronous functions, as most agents have them.

A tool never raises for what the world does to it. It returns an `Observation` that the model reads in the
next step; that a site is down is information, not the end of the run.
"""

import contextlib
import functools
import ipaddress
import json
import os
import re
import secrets
import ssl
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from whyidle_agent.errors import AgentError
from whyidle_agent.text import for_prompt, one_line

MAX_RESPONSE_BYTES = 1 << 20
MAX_FILE_BYTES = 64 << 10
_RESULTS_SHOWN = 3
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


@dataclass(frozen=True)
class Observation:
    """What a tool found out: one line of clean text, and whether the tool did its job."""

    text: str
    ok: bool


def search_web(query: str, base_url: str, timeout_s: float) -> Observation:
    """Ask a SearxNG-compatible server at `base_url`, blocking the calling thread until it has answered.

    `timeout_s` bounds connecting, each silence and the whole answer, seconds. Any failure of server or
    network becomes an observation. At most MAX_RESPONSE_BYTES are read.
    """
    deadline = time.monotonic() + timeout_s
    body = bytearray()
    try:
        with httpx.stream(
            "GET", **search_request(query, base_url), **httpx_options(base_url, timeout_s)
        ) as response:
            if response.status_code != httpx.codes.OK:
                return Observation(f"the search server answered HTTP {response.status_code}", ok=False)
            for chunk in response.iter_raw():
                body += chunk
                if len(body) > MAX_RESPONSE_BYTES:
                    return Observation("the search server's answer is larger than 1 MiB", ok=False)
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout("slow answer")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return failed_search(error, timeout_s)
    return parse_results(bytes(body))


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
    if isinstance(error, httpx.TimeoutException):
        return late_search(timeout_s)
    reason = one_line(str(error), 120) or type(error).__name__
    return Observation(f"the search failed: {reason}", ok=False)


def late_search(timeout_s: float) -> Observation:
    """Return what the model reads of a search that took too long."""
    return Observation(f"the search server did not answer within {timeout_s:g} s", ok=False)


def parse_results(body: bytes) -> Observation:
    """Return the observation that a search server's JSON amounts to; anything else is a failed one."""
    try:
        data: Any = json.loads(body)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        return Observation("the search server's answer is not JSON", ok=False)
    results = data.get("results") if isinstance(data, dict) else None
    if not isinstance(results, list):
        return Observation("the search server's answer has no results", ok=False)
    shown = []
    for result in results[:_RESULTS_SHOWN]:
        if isinstance(result, dict) and isinstance(result.get("title"), str):
            content = result.get("content")
            content = for_prompt(content, 60) if isinstance(content, str) else ""
            shown.append(f"{for_prompt(result['title'], 40)}: {content}")
    return Observation(" / ".join(shown) or "no results", ok=True)


class WorkFolder:
    """The one folder that `write_file` can write in, held open so that it cannot be exchanged for another."""

    def __init__(self, path: Path) -> None:
        """Open `path`, making it when it is missing; raises AgentError. A symbolic link is refused."""
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise AgentError(
                f"cannot use the work folder {path}: {error.strerror}", "give another with --workdir DIR"
            ) from error

    def close(self) -> None:
        """Let go of the folder."""
        os.close(self._handle)

    def replace(self, name: str, data: bytes) -> None:
        """Make `name` a file holding `data`, whole or not at all; raises OSError.

        Writes a new file and renames it, so nothing that already has the name (a symbolic link, a hard
        link to a file elsewhere, a FIFO) is ever opened.
        """
        temporary = f".{secrets.token_hex(8)}.tmp"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        handle = os.open(temporary, flags, 0o644, dir_fd=self._handle)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.rename(temporary, name, src_dir_fd=self._handle, dst_dir_fd=self._handle)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=self._handle)
            raise

    def is_replaceable(self, name: str) -> bool:
        """Return whether `name` is free or a regular file."""
        try:
            return stat.S_ISREG(os.stat(name, dir_fd=self._handle, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            return True


@contextlib.contextmanager
def work_folder(path: Path) -> Iterator[WorkFolder]:
    """Open the work folder at `path` for the length of a `with` block."""
    folder = WorkFolder(path)
    try:
        yield folder
    finally:
        folder.close()


def write_file(name: str, text: str, folder: WorkFolder) -> Observation:
    """Write `text` to the file `name` directly in `folder`; anything but a plain name is refused."""
    shown = one_line(name, 64)
    if not _NAME.fullmatch(name):
        return Observation(f"refused: {shown!r} is not a plain file name", ok=False)
    data = text.encode("utf-8", "replace")
    if len(data) > MAX_FILE_BYTES:
        return Observation(f"refused: more than {MAX_FILE_BYTES} bytes", ok=False)
    try:
        if not folder.is_replaceable(name):
            return Observation(f"refused: {shown!r} exists and is not a regular file", ok=False)
        folder.replace(name, data)
    except OSError as error:
        return Observation(f"cannot write {shown!r}: {error.strerror}", ok=False)
    return Observation(f"wrote {len(data)} bytes to {shown}", ok=True)


def check_search_url(url: str) -> str:
    """Return `url` without a trailing slash; raises ValueError when it is no http(s) address."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"not an http(s) address: {url!r}")
    _ = parts.port  # raises ValueError when it is not a port number
    return url.rstrip("/")


@functools.cache
def _tls() -> ssl.SSLContext:
    return httpx.create_ssl_context()


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
