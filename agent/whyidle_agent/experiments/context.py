"""The article's context: fifteen steps whose whole history goes back into the prompt, until it is full.

The sizes are the article's own: 28 000 tokens after 15 steps, a limit of 24 000 (24 576) where its card ran
out of memory. What whyidle knew when half of the inferences were over comes from the recording as it was
then: a recording that was cut off is reported on up to its end.
"""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from whyidle_agent.errors import AgentError
from whyidle_agent.experiments.observed import (
    PROGRAMS,
    SCHEMA,
    Observed,
    Plan,
    findings,
    folder,
    load,
    observe,
    save,
    table,
)

CONTEXT = 24576
LOOPS = 15
ARTICLE = {"tokens": "28 000 after 15 steps", "kv": "over 10 GB", "full": "above 24 000 tokens"}
# Seven searches a step, of which 2000 characters go into the prompt: 1900 tokens a step, as in the article.
_OPTIONS = ("--small", "--tokens", "540", "--queries", "7", "--observation", "2000", "--history", "whole")


def context(out: Path, loops: int, seed: int) -> dict[str, Any]:
    """Run the experiment, leave every file of it in `out` and return its result; raises AgentError."""
    folder(out)
    copies = _Copies(out / "context-recording", out / "context-cut")
    plan = Plan("context", loops, (*_OPTIONS, "--context", str(CONTEXT)), recorded=True, fails=True)
    run = observe(out, plan, seed, copies.take)
    if "do not fit in a context" not in (out / "context.log").read_text(errors="replace"):
        raise AgentError("the run ended before its context was full", f"read {out / 'context.log'}")
    half = copies.before((_inferences(run.report) + 1) // 2)
    copies.remove()
    return save(out, compare(run, half) | {"loops": loops, "seed": seed})


def compare(run: Observed, half: dict[str, Any]) -> dict[str, Any]:
    """Return the experiment's result as JSON. `half`: whyidle's report on the first half of the run."""
    engine = run.report["engines"][0]
    size, kv_bytes = engine["context"]["size"], engine["kv_cache_bytes"]
    failed = _inferences(run.report) + 1  # the one that found no room
    forecast = next(iter(findings(half, "kv_cache_growth")), None)
    near = [each for each in findings(half, "memory_limit_near") if each["limit"]["scope"] == "kv_cache"]
    known = half["engines"][0]["latency_s"]["count"]
    said = None
    if forecast is not None and forecast["full_in_inferences"] is not None:
        said = int(known + forecast["full_in_inferences"]) + 1
    return {
        "schema": SCHEMA,
        "name": "context",
        "article": ARTICLE,
        "context_size": size,
        "kv_cache_bytes": kv_bytes,
        "steps": [
            {
                "step": step["step"],
                "tokens": fill,
                "kv_bytes": kv_bytes and kv_bytes * fill // size,
                "latency_s": latency_s,
                "own_tokens": step["prompt_tokens"] + step["tokens"],
                "own_latency_s": step["think_s"],
            }
            for step, fill, latency_s in _by_step(run.steps, engine["inferences"])
        ],
        "forecast": {
            "after_inferences": known,
            "fails_at_inference": said,
            "failed_at_inference": failed,
            "error": None if said is None else said / failed - 1,
            "findings": [each["kind"] for each in (forecast, *near) if each is not None],
        },
    }


def _by_step(
    steps: list[dict[str, Any]], inferences: list[dict[str, Any]]
) -> Iterator[tuple[dict[str, Any], int, float]]:
    """Pair steps with what whyidle saw of them: tokens in the context, seconds of inference.

    On a busy machine a step can look like two inferences, with a pause between: they belong together by the
    tokens that the step came to, of which the last is not decoded any more.
    """
    left = list(inferences)
    fill = 0
    for step in steps:
        latency_s = 0.0
        while left and left[0]["fill"] <= step["prompt_tokens"] + step["tokens"]:
            inference = left.pop(0)
            fill = inference["fill"]
            latency_s += inference["latency_s"]
        yield step, fill, latency_s


class _Copies:
    """The recording as it was from time to time, while the run went on."""

    def __init__(self, recording: Path, folder: Path) -> None:
        self._recording = recording
        self._folder = folder
        self._size = 0
        self._copies: list[Path] = []
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()

    def take(self) -> None:
        """Copy the recording if it has grown."""
        try:
            size = self._recording.stat().st_size
            if size > self._size:
                copy = self._folder / f"{len(self._copies):04}"
                shutil.copyfile(self._recording, copy)
                self._copies.append(copy)
                self._size = size
        except FileNotFoundError:
            return
        except OSError as error:
            raise AgentError(f"cannot copy {self._recording}: {error.strerror}", "make room") from error

    def before(self, most: int) -> dict[str, Any]:
        """Return the report of the latest copy in which at most `most` inferences were over."""
        low, high, found = 0, len(self._copies), None
        while low < high:  # the number of inferences only grows from copy to copy
            middle = (low + high) // 2
            report = self._report(self._copies[middle])
            if report is not None and _inferences(report) > most:
                high = middle
            else:
                low, found = middle + 1, report or found
        if found is None or not found["engines"]:
            raise AgentError("the first half of the run was too short to be recorded", "raise --loops")
        return found

    def remove(self) -> None:
        """Remove them."""
        shutil.rmtree(self._folder, ignore_errors=True)

    @staticmethod
    def _report(recording: Path) -> dict[str, Any] | None:
        target = recording.with_suffix(".json")
        command: list[Path | str] = [PROGRAMS / "whyidle", "report", recording, "--json", target]
        done = subprocess.run(command, capture_output=True, check=False)
        return load(target) if done.returncode == 0 else None


def _inferences(report: dict[str, Any]) -> int:
    latencies = [engine["latency_s"] for engine in report["engines"]]
    return max((latency["count"] for latency in latencies if latency is not None), default=0)


def show(result: dict[str, Any], line: Callable[[Any], None]) -> None:
    """Hand the tables of the result to `line`."""
    rows = [
        (
            str(step["step"]),
            f"{step['tokens']:,}".replace(",", " "),
            "?" if step["kv_bytes"] is None else f"{step['kv_bytes'] / 1e6:.2f} MB",
            f"{step['latency_s']:.2f} s",
            f"{step['own_latency_s']:.2f} s",
        )
        for step in result["steps"]
    ]
    heads = ("step", "tokens in context", "of them in the KV cache", "latency, whyidle", "agent's own clock")
    table("A context that only grows", heads, rows, line)
    forecast = result["forecast"]
    said, error = forecast["fails_at_inference"], forecast["error"]
    last = result["steps"][-1]
    ends = [
        ("tokens at the end", ARTICLE["tokens"], "", f"{last['tokens']} after {last['step']} steps"),
        (
            "KV cache",
            ARTICLE["kv"],
            "",
            "?" if result["kv_cache_bytes"] is None else f"{result['kv_cache_bytes'] / 1e6:.1f} MB",
        ),
        (
            "out of memory",
            ARTICLE["full"],
            f"in inference {said}, said after {forecast['after_inferences']}" if said else "not foretold",
            f"in inference {forecast['failed_at_inference']}" + (f" ({error:+.0%})" if said else ""),
        ),
        ("findings by then", "", ", ".join(forecast["findings"]) or "none", ""),
    ]
    table("Where it ends", ("", "article", "foretold from the first half", "came true"), ends, line)
