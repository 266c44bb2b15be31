"""The agent's experiment against the article's figures, and the what-if's prediction against what came."""

from __future__ import annotations

from typing import Any

from benchmarks.measure import OUT, Row, judge, say
from whyidle_agent.experiment import LOOPS, Proportion, search

ARTICLE = Proportion()
# From searches that take half as long as inference to five times as long, few in a step and many.
PROPORTIONS = (
    ARTICLE,
    Proportion(queries=3, search_per_inference=0.5),
    Proportion(queries=3, search_per_inference=1.0),
    Proportion(queries=6, search_per_inference=2.0),
    Proportion(queries=4, search_per_inference=5.0),
)
FEWER_LOOPS = 6
CLOCKS_GOAL = 0.02
PREDICTION_GOAL = 0.10


def run() -> tuple[str, list[Row]]:
    """Title and rows; three to four minutes."""
    rows: list[Row] = []
    for number, proportion in enumerate(PROPORTIONS):
        words = (
            f"{proportion.queries} searches in a step, {proportion.search_per_inference:g} x the inference"
        )
        say(f"  {number + 1}/{len(PROPORTIONS)}: {words}")
        result = search(
            OUT / "search" / str(number), LOOPS if proportion is ARTICLE else FEWER_LOOPS, 1, proportion
        )
        if proportion is ARTICLE:
            rows += _article(result)
        rows.append(_prediction(words, result))
    return "Searches one after the other and together, and what was predicted", rows


def _article(result: dict[str, Any]) -> list[Row]:
    before, after = result["sync"], result["async"]
    saved = 1 - after["whyidle_wall_s"] / before["whyidle_wall_s"]
    off = max(
        *(abs(run["clocks_differ"]) for run in (before, after)),
        *(abs(run["own_utilisation"] / run["utilisation"] - 1) for run in (before, after)),
    )
    return [
        Row("wall time saved (article: almost 40 %)", f"{saved:.0%}", "≥40%", judge(saved >= 0.4)),
        Row(
            "engine utilisation before (article: under 30 %)",
            f"{before['utilisation']:.0%}",
            "<30%",
            judge(before["utilisation"] < 0.3),
        ),
        Row(
            "engine utilisation after (article: over 70 %)",
            f"{after['utilisation']:.0%}",
            ">70%",
            judge(after["utilisation"] > 0.7),
        ),
        Row(
            "the agent's own clock to whyidle's, the worst of wall time and utilisation",
            f"{off:.1%}",
            f"within {CLOCKS_GOAL:.0%}",
            judge(off <= CLOCKS_GOAL),
        ),
    ]


def _prediction(words: str, result: dict[str, Any]) -> Row:
    predicted, after = result["predicted"], result["async"]
    what = f"predicted from the run before alone: {words}"
    if predicted is None or predicted["utilisation"] is None:
        return Row(what, "nothing", f"within {PREDICTION_GOAL:.0%}", judge(False))
    worst = max(abs(predicted["wall_error"]), abs(predicted["utilisation_error"]))
    wall = f"{predicted['wall_s']:.2f} s, came {after['whyidle_wall_s']:.2f} s"
    busy = f"{predicted['utilisation']:.0%} busy, came {after['utilisation']:.0%}"
    errors = f"{predicted['wall_error']:+.1%}", f"{predicted['utilisation_error']:+.1%}"
    value = f"{wall} ({errors[0]}); {busy} ({errors[1]})"
    return Row(what, value, f"within {PREDICTION_GOAL:.0%}", judge(worst <= PREDICTION_GOAL))
