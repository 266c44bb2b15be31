"""The inferences of one llama.cpp context: how long they took, how many tokens, how full the context got."""

from __future__ import annotations

from typing import Any, NamedTuple

from whyidle_daemon.facts import EngineFacts
from whyidle_daemon.quantiles import RELATIVE_ERROR, Durations
from whyidle_daemon.series import Point, Series
from whyidle_probes.events import ENGINE_PARALLEL, INFERENCE_GAP_NS, Engine, Inference

NS = 1_000_000_000
MAX_INFERENCES = 100


class Inferences(NamedTuple):
    """What is known of all inferences of an engine at one instant."""

    latency: Durations
    fill: tuple[Point, ...]  # (NS times its number, tokens in the context at its end)
    spans: tuple[Inference, ...]
    first_ns: int
    last_ns: int
    engine: Engine
    facts: EngineFacts | None
    parallel: bool

    @property
    def period_ns(self) -> float | None:
        """Mean time from one inference to the next; ``None`` with less than two."""
        count = self.latency.count
        return (self.last_ns - self.first_ns) / (count - 1) if count > 1 else None


class InferenceLog:
    """Takes inferences as they end. Bounded: of too many, every second one is forgotten."""

    def __init__(self) -> None:
        self.facts: EngineFacts | None = None
        self._latency = Durations()
        self._fill = Series()
        self._spans: list[Inference] = []
        self._stride = 1
        self._first_ns = 0
        self._last_ns = 0
        self._parallel = False

    def copy(self) -> InferenceLog:
        twin = InferenceLog()
        twin.facts, twin._latency = self.facts, self._latency.copy()
        twin._fill = Series()
        for point in self._fill.points:
            twin._fill.add(*point)
        twin._spans, twin._stride = list(self._spans), self._stride
        twin._first_ns, twin._last_ns, twin._parallel = self._first_ns, self._last_ns, self._parallel
        return twin

    def add(self, inference: Inference) -> None:
        """One that has ended."""
        if inference.end_ns <= inference.start_ns:
            return
        self._first_ns = self._first_ns or inference.start_ns
        self._last_ns = inference.start_ns
        self._parallel = self._parallel or bool(inference.flags & ENGINE_PARALLEL)
        number = self._latency.count + 1
        self._latency.add(inference.end_ns - inference.start_ns)
        self._fill.add(number * NS, inference.position)
        if number % self._stride == 0:
            self._spans.append(inference)
            if len(self._spans) > MAX_INFERENCES:
                self._spans = self._spans[1::2]
                self._stride *= 2

    def at(self, engine: Engine, end_ns: int, ended: bool) -> Inferences:
        """All of them; the last one too if nothing followed it for long, or its program has ended."""
        log = self
        over = engine.run_end_ns and (ended or end_ns - engine.run_end_ns >= INFERENCE_GAP_NS)
        if over and not engine.busy:
            log = self.copy()
            log.add(
                Inference(
                    engine.target, engine.pid, engine.driver, engine.context, engine.run_start_ns,
                    engine.run_end_ns, engine.run_prompt_ns, engine.run_decode_ns, engine.run_prompt_tokens,
                    engine.run_decode_tokens, engine.position, engine.flags,
                )
            )  # fmt: skip
        return Inferences(
            log._latency, tuple(log._fill.points), tuple(log._spans), log._first_ns, log._last_ns,
            engine, log.facts, log._parallel or bool(engine.flags & ENGINE_PARALLEL),
        )  # fmt: skip


def report_of(known: Inferences, start_ns: int) -> dict[str, Any]:
    """What an engine's object in the report says of its inferences."""
    engine, facts = known.engine, known.facts
    latency = None
    if known.latency.count:
        p50, p95, p99 = ((known.latency.quantile(q) or 0.0) / NS for q in (0.5, 0.95, 0.99))
        latency = {
            "count": known.latency.count,
            "p50": p50,
            "p95": p95,
            "p99": p99,
            "relative_error": RELATIVE_ERROR,
            "guessed": known.parallel,
        }
    n_ctx = facts.n_ctx if facts is not None else None
    kv, model = (facts.kv_bytes, facts.model_bytes) if facts is not None else (None, None)
    return {
        "latency_s": latency,
        "memory_peak_bytes": kv + model if kv is not None and model is not None else None,
        "memory_reason": facts.doubt if facts is not None else "the model was not looked at",
        "kv_cache_bytes": kv,
        "model_bytes": model,
        "model": facts.model if facts is not None else "",
        "tokens": {
            "prompt": engine.prompt_tokens,
            "decoded": engine.decode_tokens,
            "prompt_s": engine.prompt_ns / NS,
            "decode_s": engine.decode_ns / NS,
        },
        "context": {
            "size": n_ctx,
            "fill": _within(engine.position, n_ctx),
            "fill_peak": _within(engine.position_peak, n_ctx),
        },
        "failed_calls": engine.failed,
        "inferences": [
            {
                "start_s": (each.start_ns - start_ns) / NS,
                "latency_s": (each.end_ns - each.start_ns) / NS,
                "prompt_tokens": each.prompt_tokens,
                "decoded_tokens": each.decode_tokens,
                "fill": _within(each.position, n_ctx),
            }
            for each in known.spans
        ],
    }


def _within(position: int, n_ctx: int | None) -> int:
    """Tokens that a context holds: of batches without positions nobody sees when it was emptied."""
    return position if n_ctx is None else min(position, n_ctx)
