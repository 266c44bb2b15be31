"""A model behind a server: the protocol, a real server, and what a hostile one can send."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest

from harness import wait_until
from whyidle_agent.calls import TOOLS, SearchWeb, parse_call
from whyidle_agent.errors import AgentError
from whyidle_agent.grammar import Characters, tool_call
from whyidle_agent.main import main
from whyidle_agent.server_brain import MAX_ANSWER_CHARACTERS, ServerBrain, ServerSettings

CALL = tool_call(TOOLS, Characters(), 256)
FINISH = '{"tool":"finish","thought":"t","answer":"42"}'


class Model(ThreadingHTTPServer):
    """A server whose answer to each completion is what `reply` does with the handler."""

    def __init__(self, reply: Callable[["Handler", dict[str, Any]], None]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply = reply
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self._thread = Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> "Model":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has seen enough hangs up."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Model

    def do_GET(self) -> None:
        self.send(200, json.dumps({"data": [{"id": "a-model"}]}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        self.server.keys.append(self.headers.get("Authorization"))
        self.server.reply(self, body)

    def send(self, status: int, data: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


def stream(*texts: str, end: bytes = b"data: [DONE]\n\n") -> Callable[[Handler, dict[str, Any]], None]:
    """Answer with these pieces, as server-sent events."""
    events = [{"choices": [{"delta": {"role": "assistant"}}]}]
    events += [{"choices": [{"delta": {"content": text}}]} for text in texts]
    events.append({"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 7}})
    data = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + end
    return lambda handler, body: handler.send(200, data, "text/event-stream")


def in_turn(*replies: Callable[[Handler, dict[str, Any]], None]) -> Callable[[Handler, dict[str, Any]], None]:
    """One reply for each completion."""
    left = iter(replies)

    def reply(handler: Handler, body: dict[str, Any]) -> None:
        next(left)(handler, body)

    return reply


_OPEN: list[ServerBrain] = []


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Close the brains of a test."""
    yield
    while _OPEN:
        _OPEN.pop().close()


def brain(model: Model, **changes: Any) -> ServerBrain:
    settings = ServerSettings(**{"retry_s": (0.0, 0.0), "timeout_s": 5.0, **changes})
    _OPEN.append(ServerBrain(model.url, settings))
    return _OPEN[-1]


def test_an_answer_is_streamed() -> None:
    """Each bit is handed on as it comes; tokens are the server's; the schema and the seed went along."""
    bits: list[str] = []
    with Model(stream(FINISH[:9], FINISH[9:])) as model:
        answer = brain(model, seed=3, key="secret").think("Goal: x", CALL, 1, bits.append)
    assert bits == [FINISH[:9], FINISH[9:]]
    assert (answer.text, answer.tokens, answer.prompt_tokens) == (FINISH, 7, 11)
    (body,) = model.bodies
    assert body["model"] == "a-model"
    assert body["messages"] == [{"role": "user", "content": "Goal: x"}]
    tools = body["response_format"]["json_schema"]["schema"]["anyOf"]
    assert [shape["properties"]["tool"]["enum"] for shape in tools] == [[tool] for tool in TOOLS]
    assert model.keys == ["Bearer secret"]


@pytest.mark.parametrize(
    "text",
    [
        f"<think>{{}} hm</think>\n{FINISH}",
        f"```json\n{FINISH}\n```",
        f"Sure! {FINISH} Shall I go on?",
        '{"tool":"finish","thought":"a\nb","answer":"42"}',
    ],
)
def test_a_call_is_found_among_other_words(text: str) -> None:
    """Thoughts, code fences, politeness and raw line breaks are what models of servers write."""
    with Model(stream(text)) as model:
        answer = brain(model).think("p", CALL, 1, lambda _: None)
    assert parse_call(answer.text).answer == "42"  # type: ignore[union-attr]


@pytest.mark.parametrize("refused", [0, 1, 2])
def test_a_server_gets_the_schema_in_the_way_it_knows(refused: int) -> None:
    """What it refuses is not asked again; in the end there is only the prompt."""
    known = ["json_schema", "json_object", None][refused]

    def reply(handler: Handler, body: dict[str, Any]) -> None:
        kind = body.get("response_format", {}).get("type")
        if kind == known:
            stream(FINISH)(handler, body)
        else:
            handler.send(422, b'{"error": "unknown response_format"}')

    with Model(reply) as model:
        own = brain(model)
        for step in (1, 2):
            assert own.think("p", CALL, step, lambda _: None).text == FINISH
    assert len(model.bodies) == refused + 2


def test_one_that_does_not_stream_is_read_whole() -> None:
    """A plain JSON answer to a request for a stream is an answer."""
    whole = json.dumps({"choices": [{"message": {"content": FINISH}}]}).encode()
    with Model(lambda handler, body: handler.send(200, whole)) as model:
        answer = brain(model).think("p", CALL, 1, lambda _: None)
    assert (answer.text, answer.prompt_tokens) == (FINISH, None)


def test_a_busy_server_is_asked_again() -> None:
    """503 while it loads its model is not the end of the run."""

    def reply(handler: Handler, body: dict[str, Any]) -> None:
        if len(handler.server.bodies) < 3:
            handler.send(503, b"loading")
        else:
            stream(FINISH)(handler, body)

    with Model(reply) as model:
        assert brain(model).think("p", CALL, 1, lambda _: None).text == FINISH


def hang(handler: Handler, _body: dict[str, Any]) -> None:
    handler.rfile.read(1)


def reset(handler: Handler, _body: dict[str, Any]) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


def hint(handler: Handler, _body: dict[str, Any]) -> None:
    while True:
        handler.wfile.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        time.sleep(0.01)


HOSTILE: list[tuple[Callable[[Handler, dict[str, Any]], None], str]] = [
    (lambda h, b: h.send(401, b"no\x1b[2Jkey"), "HTTP 401 no [2Jkey"),
    (lambda h, b: h.send(500, b"x" * (2 << 20)), "an answer without end"),
    (lambda h, b: h.send(404, b""), "HTTP 404"),
    (lambda h, b: h.send(503, b""), "HTTP 503"),
    (lambda h, b: h.send(200, b"\xff\xfe"), "not JSON"),
    (lambda h, b: h.send(200, b"[" * 100_000), "not JSON"),
    (lambda h, b: h.send(200, b"data: " + b"x" * (3 << 20), "text/event-stream"), "an event without end"),
    (lambda h, b: h.send(200, b"data: {]\n\n", "text/event-stream"), "not JSON"),
    (lambda h, b: h.send(200, b"data: 3\n\n", "text/event-stream"), "no object"),
    (lambda h, b: h.send(200, b'data: {"error": "out of memory"}\n\n', "text/event-stream"), "out of memory"),
    (stream("x" * (MAX_ANSWER_CHARACTERS + 1)), "an answer without end"),
    (reset, "fails"),
    (hang, "fails"),
    (hint, "fails"),
]


@pytest.mark.parametrize(("reply", "says"), HOSTILE)
def test_what_is_no_answer_is_one_clear_error(
    reply: Callable[[Handler, dict[str, Any]], None], says: str
) -> None:
    """Bounded in size and time, never printed raw."""
    with Model(reply) as model, pytest.raises(AgentError) as refusal:
        brain(model, timeout_s=0.5 if reply in (hang, hint) else 5.0).think("p", CALL, 1, lambda _: None)
    assert says in refusal.value.what
    assert refusal.value.what.isprintable()


def test_an_answer_given_up_by_the_server_is_told_to_the_model(tmp_path: Path) -> None:
    """llama-server ends an answer that fits no call with an error; another attempt would fare the same."""
    error = {"error": {"code": 500, "message": "The model produced output that does \x1b[2Jnot match"}}
    broken = stream('{"tool":', end=b"data: " + json.dumps(error).encode() + b"\n\n")
    with Model(in_turn(broken, stream(FINISH))) as model:
        assert main(["run", "--brain-url", model.url, "--workdir", str(tmp_path / "a")]) == 0
    assert len(model.bodies) == 2
    assert "the server says: The model produced output that does" in model.bodies[1]["messages"][0]["content"]
    assert "\x1b" not in model.bodies[1]["messages"][0]["content"]


def test_a_server_that_gives_up_every_answer_is_quoted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run ends after three of them, with the server's words."""
    with Model(stream('{"tool":', end=b'data: {"error": "out of memory"}\n\n')) as model:
        assert main(["run", "--brain-url", model.url, "--workdir", str(tmp_path)]) == 1
    assert len(model.bodies) == 3
    assert capsys.readouterr().err.splitlines()[0].endswith("the server says: out of memory")


def test_nobody_there_is_one_clear_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A server that is not running ends the run with two lines; a broken list of models names the option."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert main(["run", "--brain-url", f"http://127.0.0.1:{port}", "--workdir", str(tmp_path)]) == 1
    what, todo = capsys.readouterr().err.splitlines()
    assert "model server" in what
    assert "runs there" in todo


def test_a_whole_run_learns_from_its_mistakes(tmp_path: Path) -> None:
    """An unknown tool, a broken call and prose are told to the model; the run ends with its answer."""
    said = ('{"tool":"rm","thought":"x"}', '{"tool":"write_file","name":', FINISH)
    with Model(in_turn(*map(stream, said))) as model:
        arguments = [
            "--brain-url",
            model.url,
            "--workdir",
            str(tmp_path),
            "--stats",
            str(tmp_path / "s.json"),
        ]
        assert main(arguments) == 0
    prompts = [body["messages"][0]["content"] for body in model.bodies]
    assert "there is no tool 'rm', only make_plan, search_web" in prompts[1]
    assert "not one whole JSON object" in prompts[2]
    stats = json.loads((tmp_path / "s.json").read_text())
    assert (stats["outcome"], stats["steps"], stats["decode_s"]) == ("finished", 3, None)


@pytest.fixture(scope="module")
def llama_server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """llama.cpp behind a real server, with the generated model."""
    pytest.importorskip("sse_starlette", reason="llama-cpp-python's server is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "llama_cpp.server", "--model", model, "--port", str(port)),
                *("--n_ctx", "4096", "--n_threads", "1", "--host", "127.0.0.1", "--verbose", "false"),
            ],
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        url = f"http://127.0.0.1:{port}"

        def answers() -> bool:
            assert process.poll() is None, log.read_text()
            try:
                return httpx.get(f"{url}/v1/models", trust_env=False).status_code == httpx.codes.OK
            except httpx.TransportError:
                return False

        try:
            wait_until(answers, "the model server", timeout_s=120)
            yield url
        finally:
            process.terminate()
            process.wait()


@pytest.mark.model
def test_a_real_server_answers_with_calls(llama_server: str) -> None:
    """llama.cpp's own server: the schema becomes a grammar there, the text is a call and was streamed."""
    own = ServerBrain(llama_server, ServerSettings(seed=1))
    _OPEN.append(own)
    for step in (1, 2):
        bits: list[str] = []
        answer = own.think("Goal: x\n", tool_call(("search_web",), Characters(), 512), step, bits.append)
        assert isinstance(parse_call(answer.text), SearchWeb)
        assert len(bits) > 10
        assert "".join(bits).strip() == answer.text


def test_a_name_of_a_model_that_is_no_text() -> None:
    """Bytes of the command line that are no UTF-8, or half a character from the server."""
    with Model(b"") as model, pytest.raises(AgentError, match="name of the model"):
        ServerBrain(model.url, ServerSettings(model="m\udcff"))
