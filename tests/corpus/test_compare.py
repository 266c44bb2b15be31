"""The judge of the corpus, against reports that are right and reports that are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from .compare import compare
from .expect import Program, load

PROGRAM = Program(
    "p",
    Path("p.py"),
    "x",
    (("blocking_network_call", "search", "http"),),
    frozenset(),
    frozenset(),
    (),
    None,
    False,
)
ALL = frozenset({"blocking_network_call", "function"})
TRUTH = {"threads": {"7": {"network": 1.0}}, "ports": {"http": 80, "other": 81}, "delay_s": {"7": 0.0}}


def report(network_s=1.0, **fields):
    finding = {
        "kind": "blocking_network_call",
        "function": "search",
        "peer": {"port": 80},
        "pid": 7,
        "blocked_s": 1.0,
        **fields,
    }
    return {
        "threads": [
            {
                "tid": 7,
                "name": "p",
                "wall_s": 2.0,
                "states": {"network": network_s, "running": 2.0 - network_s},
            }
        ],
        "findings": [finding],
        "idle_by_cause": [],
        "loss": {"events_lost": 0},
    }


def test_the_truth_is_ok():
    """A report that says what the program says is right, to 10 ms."""
    verdict = compare(PROGRAM, ALL, TRUTH, report(network_s=0.991))
    assert verdict.ok
    assert (len(verdict.right), verdict.kinds) == (1, (1, 0, 0))


@pytest.mark.parametrize(
    "fields", [{"kind": "slow_dns"}, {"function": "main"}, {"peer": {"port": 81}}, {"peer": None}]
)
def test_another_kind_function_or_peer_is_missed_and_wrong(fields):
    """Blaming somebody else is two mistakes: the culprit is missed, and another is accused."""
    verdict = compare(PROGRAM, ALL, TRUTH, report(**fields))
    assert (len(verdict.missed), len(verdict.wrong)) == (1, 1)


def test_seconds_elsewhere_are_seen():
    """11 ms in another state are a mistake."""
    assert not compare(PROGRAM, ALL, TRUTH, report(network_s=0.989)).ok


def test_the_same_finding_twice_is_wrong():
    """Occurrences are grouped: saying it again for the same process counts against precision."""
    twice = report()
    twice["findings"] *= 2
    assert len(compare(PROGRAM, ALL, TRUTH, twice).wrong) == 1


def cause(share, function="search", port=80, state="network"):
    return {"state": state, "function": function, "peer": port and {"port": port}, "share": share}


@pytest.mark.parametrize(
    ("causes", "right"),
    [
        ([cause(0.6), cause(0.4, "fetch", 81)], True),
        ([cause(0.3), cause(0.2, "fetch", 81), cause(0.5, None, None, "runqueue")], True),  # a busy host
        ([cause(0.6), cause(0.2, "fetch", 81), cause(0.2, None, None, "event_loop")], False),
        ([cause(0.97), cause(0.03, "fetch", 81)], False),
        ([cause(0.6), cause(0.4, "fetch", 80)], False),
    ],
)
def test_root_causes_that_are_expected(causes, right):
    """Nine tenths of what was waited for are theirs, and each has its part."""
    program = PROGRAM._replace(idle=(("search", "http"), ("fetch", "other")))
    assert compare(program, ALL, TRUTH, report() | {"idle_by_cause": causes}).ok is right


@pytest.mark.parametrize("port", [80, 81, None])
def test_what_loops_are_expected_to_wait_for(port):
    """A task is told by its function, what it waits for, and the peer."""
    task = {"function": "search", "waits_for": "socket", "peer": port and {"port": port}}
    program = PROGRAM._replace(loops=(("search", "socket", "http"),))
    assert compare(program, ALL, TRUTH, report() | {"loops": [{"tasks": [task]}]}).ok is (port == 80)


def test_a_program_without_expectations_is_refused(tmp_path):
    """A typing error in EXPECT is found before anything runs."""
    path = tmp_path / "x.py"
    path.write_text('"""X."""\nEXPECT = {"finding": []}\n')
    with pytest.raises(ValueError, match="finding"):
        load(path)
