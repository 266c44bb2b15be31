"""Stand-ins for a model and for a search server."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Thread
from typing import Any

from whyidle_agent.brain import Answer
from whyidle_agent.grammar import Piece

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"


class ScriptedBrain:
    """A brain that answers with the given calls in turn, and keeps the prompts that it was shown."""

    def __init__(self, *calls: Any) -> None:
        self.calls = list(calls)
        self.prompts: list[str] = []
        self.interrupted_in = 0  # the step in which Ctrl-C comes

    def think(self, prompt: str, piece: Piece, salt: int, on_text: Callable[[str], None]) -> Answer:
        if salt == self.interrupted_in:
            raise KeyboardInterrupt
        self.prompts.append(prompt)
        text = json.dumps(self.calls[min(salt, len(self.calls)) - 1])
        on_text(text)
        return Answer(text, len(text), len(prompt), 0.001)

    def count(self, text: str) -> int:
        return len(text.encode())


@contextmanager
def raw_server(reply: bytes | Callable[[StreamRequestHandler], None]) -> Iterator[str]:
    """Serve `reply` on a loopback port to whoever connects; gives the base URL."""

    class Handler(StreamRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline() not in (b"\r\n", b""):
                pass
            with suppress(OSError):  # the client has seen enough and hung up
                if isinstance(reply, bytes):
                    self.wfile.write(reply)
                else:
                    reply(self)

    with ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def silence(handler: StreamRequestHandler) -> None:
    handler.rfile.read(1)  # until the client gives up
