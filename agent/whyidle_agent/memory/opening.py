"""Opening the memory that a run's options ask for, and handing its account over at the end."""

import argparse
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from whyidle_agent.memory.embedder import LlamaEmbedder
from whyidle_agent.memory.policies import STORE, Managed, Memory, Unbounded
from whyidle_agent.memory.store import VectorStore
from whyidle_agent.memory.window import Limits
from whyidle_agent.stats import Stats


@contextlib.contextmanager
def opened(
    options: argparse.Namespace, model: Path, history: Path, stats: Stats, say: Callable[[str], None]
) -> Iterator[Memory | None]:
    """Give the memory of `--memory`, caught up with `history`, for the length of a `with` block.

    Its account is in `stats` afterwards. Raises AgentError.
    """
    if options.memory == "off":
        yield None
        return
    with contextlib.ExitStack() as stack:
        embedder = LlamaEmbedder(
            options.embed_model or model, options.threads, options.gpu_layers, options.verbose
        )
        stack.callback(embedder.close)
        store = VectorStore(options.workdir / STORE, embedder.dimensions, embedder.name)
        stack.callback(store.close)
        memory: Memory
        if options.memory == "unbounded":
            memory = Unbounded(history, store, embedder, say)
        else:
            limits = Limits(options.window, options.ttl, options.compact_every, options.summary_tokens)
            memory = Managed(history, store, embedder, say, limits=limits)
        try:
            memory.catch_up()
            yield memory
        finally:
            stats.embed_s = embedder.seconds
            stats.memory = memory.account.as_json() | {"store_bytes": memory.store_bytes()}
