"""The model behind the agent: llama.cpp, one grammar-constrained answer at a time.

Everything is deterministic for a given model, seed and sequence of prompts: one thread by default, a seed
per answer, and a fixed order of evaluation. The prompt of each step begins with the prompt of the step
before, so llama.cpp keeps its KV cache and evaluates only what is new.
"""

import ctypes
import hashlib
import importlib
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from whyidle_agent.errors import AgentError
from whyidle_agent.grammar import Piece, root
from whyidle_agent.model_file import check_readable
from whyidle_agent.text import one_line

_WARNING = 3  # ggml_log_level: 1 debug, 2 info, 3 warn, 4 error, 5 continues the line before


@dataclass(frozen=True)
class Answer:
    """What the model wrote, and what that took: seconds of wall time, numbers of tokens."""

    text: str
    tokens: int  # generated
    # Of the whole prompt, None where a server does not say; the cached part of it is not evaluated again.
    prompt_tokens: int | None
    seconds: float  # of thinking: evaluation, sampling and everything between
    broken: str = ""  # why a server gave it up half-way


class Brain(Protocol):
    """What the loop asks of a model."""

    def think(self, prompt: str, piece: Piece, salt: int, on_text: Callable[[str], None]) -> Answer:
        """Answer `prompt` with a text of the grammar `piece`, handing each bit of it to `on_text`."""

    def count(self, text: str) -> int:
        """Return the number of tokens of `text`."""


@dataclass(frozen=True)
class Settings:
    """How the model is run. `context`: tokens; `gpu_layers`: how many to offload, -1 for all."""

    seed: int = 0
    threads: int = 1
    context: int = 4096
    temperature: float = 0.8
    gpu_layers: int = 0
    verbose: bool = False


@dataclass
class EngineTime:
    """The time spent inside llama_decode, seconds, and how often it was called."""

    seconds: float = 0.0
    calls: int = 0


class LlamaBrain:
    """A GGUF model in this process. Not for use by several threads at once."""

    def __init__(self, path: Path, settings: Settings) -> None:
        """Load the model at `path`; raises AgentError, with llama.cpp's own reason, when that fails."""
        check_readable(path)
        self.engine = EngineTime()
        self._settings = settings
        started = time.monotonic()
        self._llama, self._grammar_class = _load(path, settings, self.engine)
        self.load_seconds = time.monotonic() - started
        self._grammars: dict[str, Any] = {}
        self._chat = _chat_formatter(self._llama)

    def close(self) -> None:
        """Free the model. Explicit, because llama.cpp's destructors are not safe at interpreter exit."""
        self._llama.close()

    def count(self, text: str) -> int:
        """Return the number of tokens of `text`, without the one that begins a prompt."""
        return len(self._llama.tokenize(text.encode(), add_bos=False))

    def think(self, prompt: str, piece: Piece, salt: int, on_text: Callable[[str], None]) -> Answer:
        """Answer `prompt` with a text that `piece` admits.

        `salt` makes this answer's random choices differ from those of another step with the same seed.
        Raises AgentError when prompt and answer do not fit in the context, and when llama.cpp fails.
        """
        started = time.monotonic()
        llama = self._llama
        tokens = self._tokenize(prompt)
        limit = piece.longest + 1
        if len(tokens) + limit > llama.n_ctx():
            raise AgentError(
                f"a prompt of {len(tokens)} tokens and an answer of up to {limit} do not fit in a context "
                f"of {llama.n_ctx()}",
                "raise --context, or shorten --goal or --tokens",
            )
        llama.set_seed(_mixed(self._settings.seed, salt))
        written = bytearray()
        count = 0
        generated = llama.generate(tokens, temp=self._settings.temperature, grammar=self._grammar(piece))
        try:
            for token in generated:
                count += 1
                bit = llama.detokenize([token])
                written += bit
                on_text(bit.decode("ascii", "replace"))
                # A brace occurs in no string of the grammar, so this one ends the call. Asking the model
                # for its end token would cost one more evaluation.
                if bit.endswith(b"}") or count >= limit:
                    break
        except RuntimeError as error:
            raise AgentError(
                f"llama.cpp cannot compute: {one_line(str(error), 160)}",
                "give it fewer --gpu-layers or a smaller --context; run it again to go on from the last step",
            ) from error
        finally:
            generated.close()
        return Answer(written.decode("ascii", "replace"), count, len(tokens), time.monotonic() - started)

    def _tokenize(self, prompt: str) -> list[int]:
        if self._chat is None:
            tokens: list[int] = self._llama.tokenize(prompt.encode(), add_bos=True, special=False)
            return tokens
        try:
            text = self._chat(messages=[{"role": "user", "content": prompt}]).prompt
        except Exception as error:  # a template is a program of the model's author: it can raise anything
            raise _bad_template(error) from error
        # The template writes its own beginning-of-text; the turn marks in it must become control tokens.
        # What came from the web cannot contain such marks: see text.for_prompt.
        marked: list[int] = self._llama.tokenize(text.encode(), add_bos=False, special=True)
        return marked

    def _grammar(self, piece: Piece) -> Any:
        if piece.gbnf not in self._grammars:
            self._grammars[piece.gbnf] = self._grammar_class.from_string(root(piece), verbose=False)
        return self._grammars[piece.gbnf]


class _Log:
    """llama.cpp's log: to standard error when asked for, else its complaints kept for the error message."""

    def __init__(self) -> None:
        self.verbose = False
        self.complaints: deque[str] = deque(maxlen=20)
        self._callback: Any = None

    def install(self, llama_cpp: Any, verbose: bool) -> None:
        self.verbose = verbose
        self.complaints.clear()
        if self._callback is None:
            # Kept for the life of the process: llama.cpp calls it until the very end.
            self._callback = llama_cpp.llama_log_callback(self._write)
        llama_cpp.llama_log_set(self._callback, ctypes.c_void_p(0))

    def _write(self, level: int, text: bytes, _user_data: object) -> None:
        line = text.decode("utf-8", "replace")
        if self.verbose:
            print(line, end="", file=sys.stderr, flush=True)
        elif level >= _WARNING and line.strip():
            self.complaints.append(line.strip())

    def reason(self) -> str:
        """Return the most telling complaint of the last load, or an empty string."""
        for line in self.complaints:
            # The first is the cause; the rest is each caller saying that its callee failed.
            if "failed" in line or "error" in line or "corrupt" in line or "not within" in line:
                return one_line(line.rpartition("%s:")[2], 160)
        return ""


_LOG = _Log()


def _mixed(seed: int, salt: int) -> int:
    """Return a llama.cpp seed that differs for every pair. 31 bits: 2**32 - 1 would mean "random"."""
    return int.from_bytes(hashlib.sha256(f"{seed} {salt}".encode()).digest()[:4]) >> 1


def _load(path: Path, settings: Settings, engine: EngineTime) -> tuple[Any, Any]:
    try:
        # Here and not above: an optional dependency, and 0.3 s of start-up. By name, because its type
        # hints are incomplete.
        llama_cpp: Any = importlib.import_module("llama_cpp")
    except (ImportError, OSError, RuntimeError) as error:
        raise AgentError(
            f"cannot import llama-cpp-python: {one_line(str(error), 200)}", "run: make setup"
        ) from error
    _LOG.install(llama_cpp, settings.verbose)

    try:
        llama: Any = llama_cpp.Llama(
            str(path),
            n_ctx=settings.context,
            n_threads=settings.threads,
            n_threads_batch=settings.threads,
            n_gpu_layers=settings.gpu_layers,
            seed=_mixed(settings.seed, 0),
            verbose=settings.verbose,
        )
    except (ValueError, RuntimeError, OSError, AssertionError) as error:
        reason = _LOG.reason() or one_line(str(error), 160)
        raise AgentError(
            f"llama.cpp cannot load {path}: {reason}",
            "the file may be truncated or newer than llama-cpp-python: fetch it again, or run with --verbose",
        ) from error
    _time_decode(llama._ctx, engine)
    return llama, llama_cpp.LlamaGrammar


def _time_decode(context: Any, engine: EngineTime) -> None:
    """Count the time in llama_decode, which is what an observer from outside sees as engine busy."""
    decode = context.decode

    def timed(batch: Any) -> None:
        started = time.monotonic()
        try:
            decode(batch)
        finally:
            engine.seconds += time.monotonic() - started
            engine.calls += 1

    context.decode = timed


def _chat_formatter(llama: Any) -> Any:
    """Return the model's own chat template as a formatter, or None when it has none."""
    template = llama.metadata.get("tokenizer.chat_template")
    if not template:
        return None
    formatter: Any = importlib.import_module("llama_cpp.llama_chat_format").Jinja2ChatFormatter

    def spelled(token: int) -> str:
        return "" if token < 0 else str(llama._model.token_get_text(token))

    try:
        return formatter(template, spelled(llama.token_eos()), spelled(llama.token_bos()))
    except Exception as error:  # as above
        raise _bad_template(error) from error


def _bad_template(error: Exception) -> AgentError:
    reason = one_line(str(error), 160)
    return AgentError(f"the model's chat template fails: {reason}", "use another model file")
