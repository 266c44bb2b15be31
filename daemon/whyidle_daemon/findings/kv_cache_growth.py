"""``kv_cache_growth``: the context of an engine fills from inference to inference, until it is full.

Rests on the positions of the tokens in each call of ``llama_decode``. Guilty is a context that at least four
inferences in a row left fuller, by a slope that is certain, 64 tokens or more in all, and that was not
emptied since. Where the context's size is known it says after how many inferences it is full.

**saves_s**: how much longer the decoding took than if each token had cost what it did in the first quarter of
the inferences, if a token became slower for certain.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, NamedTuple

from whyidle_daemon.findings.evidence import Evidence, confidence, say, seconds
from whyidle_daemon.findings.memory import in_words, of_process, since_start, size
from whyidle_daemon.gaps import EngineActivity
from whyidle_daemon.inferences import Inferences
from whyidle_daemon.series import NS, Trend, theil_sen, trend_of

MIN_INFERENCES = 4
MIN_TOKENS = 64
MIN_RISES = 0.7  # of the steps from one inference to the next
KEPT = 0.9  # of the peak: it was not emptied


class Filling(NamedTuple):
    """An engine whose context fills: ``per_loop`` tokens an inference, full after ``loops`` more."""

    engine: EngineActivity
    known: Inferences
    trend: Trend
    per_loop: float
    fill: int
    n_ctx: int | None
    loops: float | None

    @property
    def full_ns(self) -> float | None:
        """When it is full, from now."""
        period = self.known.period_ns
        return self.loops * period if self.loops is not None and period is not None else None


def filling(evidence: Evidence) -> list[Filling]:
    """The engines whose contexts fill."""
    found = []
    for engine in evidence.engines:
        one = _filling(engine)
        if one is not None:
            found.append(one)
    return found


def _filling(engine: EngineActivity) -> Filling | None:
    known = engine.inferences
    if known is None or engine.process is None or known.parallel or len(known.fill) < MIN_INFERENCES:
        return None
    fills = [fill for _, fill in known.fill]
    rises = sum(b > a for a, b in pairwise(fills))
    if rises < MIN_RISES * (len(fills) - 1) or fills[-1] < KEPT * max(fills):
        return None
    n_ctx = known.facts.n_ctx if known.facts is not None else None
    if n_ctx is not None and max(fills) > n_ctx:  # without positions nobody sees it emptied
        return None
    trend = trend_of(known.fill, MIN_INFERENCES, warm_up=0.0, stretches=len(known.fill) * 2, surely_on=False)
    if trend is None or trend.grown < MIN_TOKENS:
        return None
    loops = max(0.0, (n_ctx - fills[-1]) / trend.rate) if n_ctx is not None else None
    return Filling(engine, known, trend, trend.rate, fills[-1], n_ctx, loops)


def find(evidence: Evidence) -> list[dict[str, Any]]:
    """One finding for each context that fills."""
    return [_finding(evidence, each) for each in filling(evidence)]


def _finding(evidence: Evidence, each: Filling) -> dict[str, Any]:
    process, facts = each.engine.process, each.known.facts
    assert process is not None
    doubts = [] if each.n_ctx is not None else ["the size of the context is not known"]
    level, reasons = confidence(evidence, None, doubts, from_totals=True)
    if level == "high":
        reasons = [f"the fill after each of {each.known.latency.count} inferences"]
    share = each.fill / each.n_ctx if each.n_ctx else 0.0
    full, size_known = "", ""
    if each.loops is not None and each.full_ns is not None:
        full = f"; it is full in {in_words(each.full_ns, math.floor(each.loops))}"
        size_known = f" of {each.n_ctx}"
    cache = ""
    if facts is not None and facts.kv_bytes is not None:
        cache = f" (a KV cache of {size(facts.kv_bytes)})"
    slower = _slower_ns(each.known)
    cost = f" Longer contexts cost {say(int(slower))} of decoding so far." if slower >= NS / 100 else ""
    return of_process(
        "kv_cache_growth",
        evidence,
        process,
        each.engine,
        severity="high" if share >= 0.75 else "medium" if share >= 0.4 else "low",
        confidence=level,
        confidence_reasons=reasons,
        count=each.known.latency.count,
        saves_s=seconds(int(slower)) if slower else None,
        tokens_per_inference=each.per_loop,
        context_fill=each.fill,
        context_size=each.n_ctx,
        full_in_inferences=each.loops,
        full_at_s=since_start(evidence, each.full_ns) if each.full_ns is not None else None,
        kv_cache_bytes=facts.kv_bytes if facts is not None else None,
        advice=(
            f"The context of {each.engine.id} fills by {each.per_loop:.0f} tokens an inference: {each.fill}"
            f"{size_known} tokens are used{cache}{full}.{cost} Keep a window of the last turns and summarise "
            "the rest into a token budget; a larger n_ctx only costs memory."
        ),
    )


def _slower_ns(known: Inferences) -> float:
    """What decoding took beyond its price per token at first; 0 when it did not become slower for certain."""
    spans = [span for span in known.spans if span.decode_tokens]
    if len(spans) < 2 * MIN_INFERENCES:
        return 0.0
    prices = [span.decode_ns / span.decode_tokens for span in spans]
    slope = theil_sen([(number * NS, int(price)) for number, price in enumerate(prices)])
    if slope is None or slope.low <= 0:
        return 0.0
    first = sorted(prices[: len(prices) // 4 + 1])
    base = first[len(first) // 2]
    extra = sum(span.decode_ns - base * span.decode_tokens for span in spans)
    return max(0.0, extra * known.latency.count / len(known.spans))
