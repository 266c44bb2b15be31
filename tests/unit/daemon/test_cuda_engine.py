"""A CUDA engine in the report: findings as for llama.cpp, simulated hardware and unseen launches are said."""

from __future__ import annotations

from typing import Any

import pytest
from report_schema import check
from timeline import MS, PID, START, Life, S, Step, asleep, call, life, observe, run

from whyidle_daemon.facts import CudaFacts, LaunchesSeen
from whyidle_probes.events import CONTEXT_CUDA, THREAD_GPU, Gap, Thread, Wait


def on_cuda(steps: list[Step]) -> Life:
    """The same life, with libcuda as the engine."""
    made = life(steps)
    assert made.engine is not None
    events = [e._replace(context=CONTEXT_CUDA) if isinstance(e, Gap) else e for e in made.events]
    return made._replace(events=events, engine=made.engine._replace(context=CONTEXT_CUDA))


def loop() -> list[Step]:
    """A kernel that is waited for, then a search, five times."""
    kernel = asleep(Wait.GPU, 300 * MS)._replace(busy=True)
    return [*([kernel, call(500 * MS), run(MS)] * 5), kernel]


def report(*facts: Any) -> dict[str, Any]:
    made = observe([on_cuda(loop())], extra=facts)
    check(made)
    return made


def test_a_network_call_between_kernels() -> None:
    """The call is blamed for the engine's idle seconds; the time in synchronisations is gpu_wait."""
    made = report()
    (engine,) = made["engines"]
    assert (engine["kind"], engine["id"], engine["simulated"]) == ("cuda", f"cuda:{PID}", False)
    assert engine["busy_s"] == pytest.approx(1.8)
    assert engine["launches_unseen_s"] == 0
    first = made["findings"][0]
    assert (first["kind"], first["confidence"]) == ("blocking_network_call", "high")
    assert first["engine_idle_s"] == pytest.approx(2.5)
    assert made["threads"][0]["states"]["gpu_wait"] == pytest.approx(1.8)


def test_simulated_hardware_is_said() -> None:
    """A process that maps a stand-in for libcuda has a simulated engine."""
    assert report(CudaFacts(PID, START, True))["engines"][0]["simulated"] is True


def test_unseen_launches_lower_the_confidence() -> None:
    """While launches are too many to be observed, gaps are known less surely, and the finding says so."""
    made = report(LaunchesSeen(START + S, False, 20_000), LaunchesSeen(START + 3 * S, True, 20_000))
    assert made["engines"][0]["launches_unseen_s"] == pytest.approx(2)
    first = made["findings"][0]
    assert first["confidence"] == "medium"
    assert any("launches" in reason for reason in first["confidence_reasons"])


def test_a_spinning_synchronisation_that_goes_on() -> None:
    """Time on a CPU inside a synchronisation that has not returned is gpu_wait, not running."""
    zero = (0,) * 32
    form = life([run(MS)]).thread._replace(
        ns=zero, last_ns=100, first_ns=100, end_ns=0, state=int(Wait.RUNNING)
    )
    spinning: Thread = form._replace(flags=THREAD_GPU)
    assert spinning.totals_at(150)[Wait.GPU] == 50
    assert form.totals_at(150)[Wait.RUNNING] == 50
