"""What is found about memory and contexts, and the decoys that only look like it."""

from __future__ import annotations

from typing import Any

import pytest
from report_schema import check
from timeline import CONTEXT, MS, PID, START, Life, S, born, died, infer, life, observe, run

from whyidle_daemon.facts import EngineFacts, LimitSample, MemorySample
from whyidle_probes.events import ENGINE_PARALLEL, Exit, Inference

MB = 1_000_000
N = 80


def samples(values: list[float], files: int = 0) -> list[Any]:
    return [
        MemorySample(PID, START + i * S // 4, int(value) + files * i, None, int(value))
        for i, value in enumerate(values)
    ]


def limit(values: list[float], size: int, scope: str = "cgroup") -> list[Any]:
    return [LimitSample(scope, "/job", START + i * S // 4, int(v), size) for i, v in enumerate(values)]


def leak(rate: float = 2 * MB, base: float = 80 * MB) -> list[float]:
    return [base + rate * i / 4 for i in range(N)]


def found(extra: list[Any], lives: list[Life] | None = None) -> list[dict[str, Any]]:
    report = observe(lives or [life([run(N * S // 4)])], extra=tuple(extra))
    check(report)
    return [one for one in report["findings"] if one["kind"].startswith(("memory", "kv"))]


def test_a_leak() -> None:
    """The rate, how sure it is, and what to do; that costs no time, so it saves none."""
    (one,) = found(samples(leak()))
    assert (one["kind"], one["pid"], one["confidence"]) == ("memory_growth", PID, "high")
    assert one["saves_s"] is None
    assert one["growth_bytes_per_s"] == pytest.approx(2 * MB, rel=0.01)
    assert one["growth_low"] <= one["growth_bytes_per_s"] <= one["growth_high"]
    assert "2.0 MB a second" in one["advice"]


def test_what_is_freed_at_the_end_hides_no_leak() -> None:
    """A process that ends frees what it held: that does not tell how it ran. Of one that lives, it does."""
    values = leak(rate=0.4 * MB)
    values[-3:] = [value - 6 * MB for value in values[-3:]]
    (one,) = found([*samples(values), Exit(1, START + N * S // 4, PID, 0, 30_000, "python")])
    assert one["growth_bytes_per_s"] == pytest.approx(0.4 * MB, rel=0.01)
    assert found(samples(values)) == []


def test_a_warm_up_that_goes_on_is_said_to_be_perhaps_one() -> None:
    """Five seconds and six inferences, a seventh more: low, and the reader is told why. Later it is sure."""
    short, steps = leak(rate=2 * MB)[:24], [infer(100 * MS), run(900 * MS)]
    (one,) = found(samples(short), [life(steps * 6)])
    assert (one["kind"], one["severity"], one["confidence"]) == ("memory_growth", "low", "low")
    assert any("only 4." in reason and "warms up" in reason for reason in one["confidence_reasons"])
    assert "If it goes on" in one["advice"]
    (one,) = found(samples([80 * MB + 2 * MB * i / 4 for i in range(120)]), [life(steps * 30)])
    assert (one["severity"], one["confidence"]) == ("medium", "high")


def test_growth_by_more_than_a_half_is_sure_at_once() -> None:
    """From 20 MB by 8 MB a second: in five seconds no warm-up, but a leak."""
    (one,) = found(samples([20 * MB + 8 * MB * i / 4 for i in range(24)]))
    assert (one["severity"], one["confidence"]) == ("high", "high")


DECOYS = {
    "mapped files": samples([80 * MB] * N, files=MB),
    "a collector's teeth": samples([80 * MB + i % 10 * 4 * MB for i in range(N)]),
    "a warm-up": samples([80 * MB + 60 * MB * (1 - 0.8**i) for i in range(N)]),
    "one step": samples([80 * MB + (i > 40) * 30 * MB for i in range(N)]),
    "a trickle": samples([800 * MB + i * 1000 for i in range(N)]),
    "a limit that others fill": [*samples([80 * MB] * N), *limit(leak(), 125 * MB)],
    "a limit that is full of cache": [*samples([80 * MB] * N), *limit([80 * MB] * N, 84 * MB)],
}


@pytest.mark.parametrize("name", DECOYS)
def test_memory_that_is_in_use(name: str) -> None:
    """What is used, or was used once, does not grow."""
    assert not found(DECOYS[name])


def test_a_limit_that_is_near() -> None:
    """When it is reached, and that comes first of all findings."""
    near, growth = found([*samples(leak()), *limit(leak(base=90 * MB), 150 * MB)])
    assert (near["kind"], growth["kind"]) == ("memory_limit_near", "memory_growth")
    # 90 MB and 2 MB/s: 150 MB after 30 s.
    assert near["limit_at_s"] == pytest.approx(30, abs=0.5)
    assert near["limit"]["name"] == "/job"
    assert near["limit_at_earliest_s"] <= near["limit_at_s"] <= near["limit_at_latest_s"]


def test_a_gpu_that_fills() -> None:
    """Its memory is none of the host's: it counts although no process grows, less surely."""
    (near,) = found([*samples([80 * MB] * N), *limit(leak(base=90 * MB), 150 * MB, "gpu")], engine())
    assert (near["kind"], near["pid"], near["limit"]["scope"]) == ("memory_limit_near", PID, "gpu")
    assert near["limit_in_s"] == pytest.approx(10, abs=0.5)
    assert (near["confidence"], near["limit_in_inferences"]) == ("medium", None)


def test_a_limit_that_is_far() -> None:
    """Growth, but nothing to be near to; the host's memory counts only if the target is what grows."""
    far = [*samples(leak()), *limit(leak(), 1 << 40), *limit(leak(40 * MB), 1000 * MB, "host")]
    assert [one["kind"] for one in found(far)] == ["memory_growth"]


def test_another_program_begins_anew() -> None:
    """A changed limit is another one: its past says nothing."""
    changed = [*samples(leak()), *limit(leak(), 1 << 40)[:70], *limit(leak(), 130 * MB)[70:]]
    assert [one["kind"] for one in found(changed)] == ["memory_growth"]


def contexts(fills: list[int], n_ctx: int | None = 1024, flags: int = 0, slower: float = 0.0) -> list[Any]:
    facts = EngineFacts(PID, CONTEXT, START, n_ctx, 2 * MB, 13 * MB, "m.gguf")
    return [
        facts,
        *(
            Inference(
                1, PID, PID, CONTEXT, START + i * S, START + i * S + 200 * MS, 100 * MS,
                int(100 * MS * (1 + slower * i)), 40, 20, fill, flags
            )
            for i, fill in enumerate(fills)
        ),
    ]  # fmt: skip


def engine() -> list[Life]:
    return [life([infer(100 * MS), run(900 * MS)] * 10)]


def test_a_context_that_fills() -> None:
    """Tokens an inference, when it is full, and that the cache's limit is near."""
    near, growth = sorted(found(contexts([60 * i for i in range(1, 11)]), engine()), key=lambda f: f["kind"])[
        ::-1
    ]
    assert (growth["kind"], near["kind"]) == ("kv_cache_growth", "memory_limit_near")
    assert growth["tokens_per_inference"] == pytest.approx(60)
    assert growth["full_in_inferences"] == pytest.approx((1024 - 600) / 60)
    assert growth["saves_s"] is None
    assert near["limit"]["scope"] == "kv_cache"
    assert near["limit_in_s"] == pytest.approx((1024 - 600) / 60, rel=0.01)  # an inference a second


def test_longer_contexts_that_cost_time() -> None:
    """Decoding that becomes slower with the context is what a shorter one saves."""
    growth = next(
        one
        for one in found(contexts([60 * i for i in range(1, 13)], slower=0.1), engine())
        if one["kind"] == "kv_cache_growth"
    )
    first = 0.1 * 1.2  # the median of the first four of twelve
    truth = sum(0.1 * (1 + 0.1 * i) - first for i in range(12))
    assert growth["saves_s"] == pytest.approx(truth, rel=0.01)


def test_a_context_of_unknown_size() -> None:
    """It grows for certain; when it is full is not known, and so it says."""
    (one,) = found(contexts([60 * i for i in range(1, 11)], n_ctx=None), engine())
    assert (one["kind"], one["confidence"], one["full_at_s"]) == ("kv_cache_growth", "medium", None)


CONTEXT_DECOYS = {
    "the same prompt": contexts([300] * 12),
    "a window": contexts([min(60 * i, 300) for i in range(1, 25)]),
    "emptied": contexts([*(60 * i for i in range(1, 12)), 40]),
    "by turns": contexts([100 + i % 3 * 200 for i in range(12)]),
    "few": contexts([60, 120, 180]),
    "a few tokens": contexts(list(range(100, 112))),
    # A batch without positions goes on where the last one ended; that it was emptied in between nobody saw.
    "more than it holds": contexts([500 * i for i in range(1, 11)]),
    "several clients": contexts([60 * i for i in range(1, 11)], flags=ENGINE_PARALLEL),
}


@pytest.mark.parametrize("name", CONTEXT_DECOYS)
def test_contexts_that_do_not_fill(name: str) -> None:
    """A context is there to be used."""
    assert not found(CONTEXT_DECOYS[name], engine())


def test_latency_and_tokens_in_the_report() -> None:
    """Quantiles within 1 %, and where each number comes from."""
    report = observe(engine(), extra=tuple(contexts([60 * i for i in range(1, 11)])))
    check(report)
    (one,) = report["engines"]
    assert one["latency_s"]["count"] == 10
    assert one["latency_s"]["p50"] == pytest.approx(0.2, rel=0.01)
    assert (one["memory_peak_bytes"], one["kv_cache_bytes"], one["model"]) == (15 * MB, 2 * MB, "m.gguf")
    assert [each["fill"] for each in one["inferences"]] == [60 * i for i in range(1, 11)]
    assert report["memory"] == {"processes": [], "limits": []}


def test_what_has_ended_fills_the_host_no_more() -> None:
    """A tool that took 200 MB a second for some seconds, an hour ago, does not do so for ever."""
    tool = [
        MemorySample(99, START + i * S // 4, 1000 * MB + i * 50 * MB, None, 1000 * MB + i * 50 * MB)
        for i in range(24)
    ]
    extra = [
        born(99, PID, START),
        *tool,
        died(99, START + 7 * S),
        *(
            LimitSample("host", "", START + i * S, 40_000 * MB + i * MB // 10, 64_000 * MB)
            for i in range(0, 3600, 10)
        ),
        *(MemorySample(PID, START + i * S, 1000 * MB, None, 1000 * MB) for i in range(0, 3600, 10)),
    ]
    kinds = [one["kind"] for one in found(extra, [life([run(3600 * S)])])]
    assert "memory_limit_near" not in kinds
