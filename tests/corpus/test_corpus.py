"""The quick part of the corpus: whyidle tells the truth about programs that know it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .expect import Program, landed, programs
from .runner import Bench, bench, run
from .table import differences

ALL = programs()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with bench(tmp_path_factory.mktemp("corpus")) as running:
        yield running


def test_every_program_declares_itself():
    """Each program says what it is and what must be found; there are at least forty, and enough decoys."""
    assert all(program.about for program in ALL)
    assert len(ALL) >= 40
    assert sum(not program.findings for program in ALL) >= 15


@pytest.mark.bpf
@pytest.mark.parametrize("program", [p for p in ALL if p.quick], ids=lambda program: program.name)
def test_the_report_tells_the_truth(shared: Bench, program: Program):
    """Findings, peers, functions and the seconds of each state are what the program itself measured."""
    verdict = run(shared, program)
    if pending := program.pending(landed()):
        pytest.skip(f"rests on {', '.join(pending)}, not there yet")
    assert verdict.problem is None
    assert not differences(verdict)
