"""Texts as vectors, by llama.cpp: the mean of what the model's last layer says of their tokens."""

import importlib
import time
from pathlib import Path
from typing import Any, Protocol

from whyidle_agent.errors import AgentError
from whyidle_agent.model_file import check_readable
from whyidle_agent.text import one_line

_CONTEXT = 512  # tokens; a longer text is judged by its beginning
_MEAN = 1  # llama_pooling_type


class Embedder(Protocol):
    """What a memory asks of a model. `dimensions`: numbers in a vector; `name`: of the model."""

    dimensions: int
    name: str

    def embed(self, text: str) -> list[float]:
        """Return where `text` lies."""


class LlamaEmbedder:
    """A GGUF model in a context of its own, so that the agent's prompt stays in the cache of the other.

    The file is mapped: two contexts of one model hold its weights once.
    """

    def __init__(self, path: Path, threads: int = 1, gpu_layers: int = 0, verbose: bool = False) -> None:
        """Load the model at `path`; raises AgentError."""
        check_readable(path)
        self.name = path.name
        self.seconds = 0.0  # spent in `embed`
        try:
            llama: Any = importlib.import_module("llama_cpp").Llama
            self._llama = llama(
                str(path),
                n_ctx=_CONTEXT,
                n_batch=_CONTEXT,
                n_ubatch=_CONTEXT,
                n_threads=threads,
                n_threads_batch=threads,
                n_gpu_layers=gpu_layers,
                embedding=True,
                pooling_type=_MEAN,
                verbose=verbose,
            )
        except (ImportError, ValueError, RuntimeError, OSError, AssertionError) as error:
            raise AgentError(
                f"llama.cpp cannot make embeddings with {path}: {one_line(str(error), 160)}",
                "give another model with --embed-model PATH, or run without --memory",
            ) from error
        self.dimensions = int(self._llama.n_embd())

    def embed(self, text: str) -> list[float]:
        """Return where `text` lies: `dimensions` numbers, as the library gives them."""
        started = time.monotonic()
        try:
            vector: list[float] = self._llama.embed(text, truncate=True)
        except (ValueError, RuntimeError) as error:
            raise AgentError(
                f"llama.cpp made no embedding: {one_line(str(error), 160)}",
                "give another model with --embed-model PATH",
            ) from error
        self.seconds += time.monotonic() - started
        return vector

    def close(self) -> None:
        """Free the model."""
        self._llama.close()
