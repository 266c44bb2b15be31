"""What the local search server knows: a few short documents about the subjects that the agent asks for."""

import re
from dataclasses import dataclass
from html import escape

_WORD = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True)
class Document:
    """One page: title and text. Its address is made from the title."""

    title: str
    content: str

    @property
    def path(self) -> str:
        """Return where the server has the page."""
        return "/pages/" + "-".join(_words(self.title))

    @property
    def html(self) -> str:
        """Return the page, with markup around the text as a page on the web has it."""
        title, content = escape(self.title), escape(self.content)
        return (
            f"<!doctype html><html><head><meta charset=utf-8><title>{title}</title>"
            f"<style>p{{margin:1em}}</style></head><body><nav><a href=/>Home</a></nav>"
            f"<h1>{title}</h1><p>{content}</p>"
            "<script>console.log('not to be read')</script></body></html>"
        )


CORPUS = tuple(
    Document(title, content)
    for title, content in (
        (
            "Why a GPU sits idle",
            "A GPU is idle when no thread submits work: it waits for the host, not for itself.",
        ),
        (
            "Blocking calls in agents",
            "A synchronous web search blocks the main thread, and the model waits for it.",
        ),
        (
            "Async I/O with gather",
            "Independent requests issued together cost as much time as the slowest of them.",
        ),
        ("The Linux scheduler", "A runnable thread waits in a run queue until the kernel gives it a CPU."),
        ("CPU bandwidth limits", "A container that has used its quota is throttled until the period ends."),
        ("Tracing with eBPF", "A probe is a small verified program that the kernel runs at an event."),
        (
            "Tracepoints and uprobes",
            "A uprobe fires in a function of a program; a tracepoint is part of the kernel.",
        ),
        ("KV cache and context", "The cache of keys and values grows with the context, token by token."),
        (
            "Prompt length and latency",
            "A long prompt costs memory and time before the first token is decoded.",
        ),
        ("Batch decode", "Decoding several sequences in one batch shares the cost of reading the weights."),
        ("Vector stores", "An embedding is a vector; indexing the same text twice doubles the memory."),
        (
            "Sliding window memory",
            "Keeping the last interactions only puts a limit on what an agent remembers.",
        ),
        (
            "The global interpreter lock",
            "One thread at a time runs Python code; the others wait for the lock.",
        ),
        (
            "Lock contention",
            "Threads that want the same lock at the same time wait for each other on a futex.",
        ),
        ("DNS and slow names", "A name server that does not answer delays each new connection by seconds."),
        (
            "TCP sockets and timeouts",
            "A read without a timeout waits for as long as the server holds the request.",
        ),
        ("Page faults", "Memory that is not resident costs a fault: a stall if the page is on disk."),
        (
            "Disk and page cache",
            "A write to disk is cached by the kernel and becomes slow when the cache is full.",
        ),
        (
            "Profiling wall time",
            "A profile of the CPU shows what runs; a wall-time profile shows what waits.",
        ),
        (
            "Sandboxed code execution",
            "An agent that executes code needs a container with limits and no network.",
        ),
        (
            "GPU utilisation",
            "A duty cycle of 85 % says that some kernel ran, not that the model was served well.",
        ),
        (
            "Queues and back pressure",
            "A server with a bounded queue refuses a request instead of stalling all.",
        ),
    )
)


def page(path: str) -> Document | None:
    """Return the document whose page is at `path`."""
    return next((document for document in CORPUS if document.path == path), None)


def search(query: str, base: str = "", limit: int = 5) -> list[dict[str, str]]:
    """Return the documents that share most words with `query`, best first, ties in corpus order.

    `base`: the address of the server that has their pages.
    """
    wanted = set(_words(query))
    scored = []
    for index, document in enumerate(CORPUS):
        # A word of the title says more about a document than a word of its text.
        score = 3 * len(wanted & set(_words(document.title))) + len(wanted & set(_words(document.content)))
        if score:
            scored.append((-score, index, document))
    return [
        {"title": document.title, "url": base + document.path, "content": document.content}
        for _, _, document in sorted(scored, key=lambda entry: entry[:2])[:limit]
    ]


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
