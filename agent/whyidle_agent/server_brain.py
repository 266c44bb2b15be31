"""A model behind a server that speaks OpenAI's protocol: llama-server, vLLM, Ollama and their like.

The call's schema goes along in the way that the server understands, found out with the first answer: as a
JSON schema, as llama-cpp-python's variant of it, or not at all; the prompt says what a call looks like in any
case. Nothing that such a server sends is trusted: it is bounded in size and time, and of an answer that is no
call the model is told.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import urlsplit

import httpx

from whyidle_agent.brain import Answer
from whyidle_agent.deadline import Deadline
from whyidle_agent.errors import AgentError
from whyidle_agent.grammar import Piece
from whyidle_agent.text import encodable, one_line, printable

MAX_ANSWER_CHARACTERS = 256 << 10
MAX_EVENT_BYTES = 1 << 20
_RETRIED = (429, 502, 503, 504)  # busy, or starting
_UNKNOWN_FIELD = (400, 422, 501)
_BYTES_PER_TOKEN = 3  # of English in any tokenizer there are more; so a prompt never gets too long
_CONNECT_S = 10.0


@dataclass(frozen=True)
class ServerSettings:
    """`model`: its name, None for the first that the server has; `timeout_s`: of an answer."""

    model: str | None = None
    seed: int = 0
    temperature: float = 0.8
    timeout_s: float = 600.0
    key: str | None = None
    retry_s: tuple[float, ...] = (0.5, 1.0, 2.0)  # waits before another attempt


class ServerBrain:
    """The model of a server. Not for use by several threads at once."""

    def __init__(self, url: str, settings: ServerSettings) -> None:
        """`url`: with `/v1` or not. Asks for a model's name unless one is given; raises AgentError."""
        base = url.rstrip("/")
        self._base = base if base.endswith("/v1") else f"{base}/v1"
        self._settings = settings
        self._formats = [_json_schema, _json_object, _no_format]
        headers = {"Accept-Encoding": "identity"}
        if settings.key:
            headers["Authorization"] = f"Bearer {settings.key}"
        self._deadline = Deadline()
        self._client = httpx.Client(
            timeout=httpx.Timeout(settings.timeout_s, connect=_CONNECT_S),
            headers=headers,
            trust_env=not _is_local(base),
        )
        try:
            self.model = settings.model or self._first_model()
            if encodable(self.model) != self.model:
                raise AgentError("the name of the model is no text", "give one with --brain-model NAME")
        except BaseException:
            self._client.close()
            raise

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()

    def count(self, text: str) -> int:
        """Return at least the number of tokens of `text`, an estimate: there is no tokenizer here."""
        return -(-len(text.encode()) // _BYTES_PER_TOKEN)

    def think(self, prompt: str, piece: Piece, salt: int, on_text: Callable[[str], None]) -> Answer:
        """Answer `prompt`; `piece` bounds the answer's length and says what a call is. Raises AgentError."""
        started = time.monotonic()
        self._deadline.set(self._settings.timeout_s)
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": piece.longest + 1,
            "temperature": self._settings.temperature,
            "seed": (self._settings.seed * 1_000_003 + salt) & 0x7FFF_FFFF,
            "stream": True,
        }
        waits = iter(self._settings.retry_s)
        while True:
            with_format = {**body, **self._formats[0](piece.schema)}
            try:
                reply = self._ask(with_format, on_text)
                break
            except _StatusError as error:
                if error.is_about_a_field and len(self._formats) > 1:
                    del self._formats[0]
                    continue
                if error.status not in _RETRIED:
                    self._fail(error)
                problem: Exception = error
            except httpx.TimeoutException as error:
                self._fail(error)
            except (httpx.HTTPError, _NonsenseError) as error:
                problem = error
            wait = next(waits, None)
            if wait is None:
                self._fail(problem)
            time.sleep(wait)
        tokens = reply.completion_tokens or reply.pieces
        seconds = time.monotonic() - started
        return Answer(_object_in(reply.text), tokens, reply.prompt_tokens, seconds, reply.broken)

    def _first_model(self) -> str:
        self._deadline.set(self._settings.timeout_s)
        try:
            with self._stream("GET", "models") as response:
                if response.status_code != httpx.codes.OK:
                    raise _StatusError(response.status_code, "")
                data = json.loads(_read(response))
            name = data["data"][0]["id"]
        except (_StatusError, httpx.HTTPError) as error:
            self._fail(error)
        except (ValueError, RecursionError, LookupError, TypeError, _NonsenseError):
            name = None
        if not isinstance(name, str):
            raise AgentError(
                f"the server at {self._base} does not say which models it has",
                "give one with --brain-model NAME",
            )
        return name

    def _stream(self, method: str, path: str, **given: Any) -> AbstractContextManager[httpx.Response]:
        return self._client.stream(
            method, f"{self._base}/{path}", extensions=self._deadline.extensions, **given
        )

    def _ask(self, body: dict[str, Any], on_text: Callable[[str], None]) -> "_Reply":
        reply = _Reply()
        with self._stream("POST", "chat/completions", json=body) as response:
            if response.status_code != httpx.codes.OK:
                raise _StatusError(response.status_code, _read(response).decode("utf-8", "replace"))
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                reply.take(_parsed(_read(response)), on_text)  # it does not stream
                return reply
            for event in _events(response):
                if event == b"[DONE]":
                    break
                reply.take(_parsed(event), on_text)
        return reply

    def _fail(self, error: Exception) -> NoReturn:
        if isinstance(error, _StatusError) and error.status in (401, 403):
            todo = "put its key into the environment variable OPENAI_API_KEY"
        elif isinstance(error, _StatusError) and error.status == httpx.codes.NOT_FOUND:
            todo = "give the address before /v1 with --brain-url, and the model's name with --brain-model"
        elif isinstance(error, httpx.TimeoutException):
            todo = "raise --brain-timeout, or use a faster model; run it again to go on from the last step"
        else:
            todo = "see that it runs there, then run this again: it goes on from the last step"
        reason = one_line(str(error), 200) or type(error).__name__
        raise AgentError(f"the model server at {self._base} fails: {reason}", todo) from error


class _StatusError(Exception):
    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"HTTP {status} {one_line(printable(body), 160)}".rstrip())
        self.status = status
        # llama-cpp-python's server says 500 to what others say 422 to.
        self.is_about_a_field = status in _UNKNOWN_FIELD or "response_format" in body


class _NonsenseError(Exception):
    """Not the protocol, or more of it than anybody needs."""


class _Reply:
    """What has come of an answer so far."""

    def __init__(self) -> None:
        self.text = ""
        self.pieces = 0
        self.broken = ""
        self.prompt_tokens: int | None = None
        self.completion_tokens: int | None = None

    def take(self, data: object, on_text: Callable[[str], None]) -> None:
        """Take one event, or the whole answer of a server that does not stream."""
        if not isinstance(data, dict):
            raise _NonsenseError("an event that is no object")
        if data.get("error"):
            said = data["error"].get("message") if isinstance(data["error"], dict) else data["error"]
            self.broken = f"the server says: {one_line(printable(str(said)), 160)}"
            if not self.text:
                raise _NonsenseError(self.broken)
            return  # llama-server, of an answer that is no call: asked again it would give the same one
        usage = data.get("usage")
        if isinstance(usage, dict):
            self.prompt_tokens = _whole(usage.get("prompt_tokens"))
            self.completion_tokens = _whole(usage.get("completion_tokens"))
        choices = data.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict):
            return
        part = choice.get("delta") or choice.get("message")
        text = part.get("content") if isinstance(part, dict) else None
        if not isinstance(text, str) or not text:
            return
        self.pieces += 1
        self.text += text
        if len(self.text) > MAX_ANSWER_CHARACTERS:
            raise _NonsenseError("an answer without end")
        on_text(text)


def _events(response: httpx.Response) -> Iterator[bytes]:
    """Yield the data of each server-sent event."""
    rest = b""
    for chunk in response.iter_raw():
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > MAX_EVENT_BYTES:
            raise _NonsenseError("an event without end")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()


def _read(response: httpx.Response) -> bytes:
    body = bytearray()
    for chunk in response.iter_raw():
        body += chunk
        if len(body) > MAX_EVENT_BYTES:
            raise _NonsenseError("an answer without end")
    return bytes(body)


def _parsed(data: bytes) -> object:
    try:
        parsed: object = json.loads(data)
    except (ValueError, RecursionError):
        raise _NonsenseError("an answer that is not JSON") from None
    return parsed


def _object_in(text: str) -> str:
    """Return the JSON object in an answer that has other things around it (thoughts, a code fence)."""
    answer = text.rpartition("</think>")[2]
    start = answer.find("{")
    if start >= 0:
        try:
            _, end = json.JSONDecoder(strict=False).raw_decode(answer, start)
        except (ValueError, RecursionError):
            return answer
        return answer[start:end]
    return answer


def _json_schema(schema: dict[str, Any] | None) -> dict[str, Any]:
    wanted = {"name": "call", "schema": schema}
    return {
        "response_format": {"type": "json_schema", "json_schema": wanted},
        "stream_options": {"include_usage": True},
    }


def _json_object(schema: dict[str, Any] | None) -> dict[str, Any]:
    return {"response_format": {"type": "json_object", "schema": schema}}


def _no_format(_schema: dict[str, Any] | None) -> dict[str, Any]:
    return {}


def _whole(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _is_local(url: str) -> bool:
    return urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")
