"""A report for a user who may see his own processes only."""

from __future__ import annotations

import copy
import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import jsonschema
import pytest
import report_schema

from whyidle_daemon.access import Access, Peer, Scope
from whyidle_daemon.clients import Client
from whyidle_daemon.config import Access as AccessConfig
from whyidle_daemon.owners import Owners
from whyidle_daemon.proc import Proc
from whyidle_daemon.redaction import ADVICE, HIDDEN, redacted, redacted_finding
from whyidle_daemon.requests import Requests
from whyidle_daemon.sessions import Session, Sessions
from whyidle_daemon.target import Target
from whyidle_wire.records import Finish, Observe

SAMPLE = Path(__file__).parents[1] / "cli" / "sample_report.json"
SECRET = "s3cret"
MINE, THEIRS = 1, 2


@pytest.fixture
def report() -> dict[str, Any]:
    """The sample, with everything of one process made secret, and things nobody has thought of yet."""
    found: dict[str, Any] = json.loads(SAMPLE.read_text())
    owner = found["processes"][0]["pid"]

    def rewrite(item: Any, theirs: bool) -> Any:
        if isinstance(item, dict):
            if isinstance(item.get("pid"), int):
                theirs = item["pid"] != owner
            return {
                key: (THEIRS if theirs else MINE) if key == "pid" else rewrite(value, theirs)
                for key, value in item.items()
            }
        if isinstance(item, list):
            return [rewrite(value, theirs) for value in item]
        return item

    found = rewrite(found, False)
    stranger = copy.deepcopy(found["processes"][0])
    found["processes"].append({**stranger, "pid": THEIRS, "command": SECRET, "cgroup": f"/{SECRET}"})
    found["threads"].append({**found["threads"][0], "pid": THEIRS, "name": SECRET, "later": SECRET})
    found["engines"].append({**found["engines"][0], "pid": THEIRS, "id": f"llama:{SECRET}", "path": SECRET})
    cause = {
        **found["idle_by_cause"][0],
        "pid": THEIRS,
        "tid": THEIRS,
        "function": SECRET,
        "peer": {"host": SECRET},
    }
    found["idle_by_cause"].append(cause)
    found["gaps"].append({**found["gaps"][0], "engine": f"llama:{SECRET}", "causes": [cause]})
    mine = {**found["findings"][0], "pid": MINE, "advice": f"wait for {SECRET}", "child": SECRET}
    mine["peer"] = {"host": SECRET, "address": "10.0.0.1", "port": 1}
    mine["neighbours"] = [{"pid": THEIRS, "command": SECRET}]
    found["findings"] = [mine, {**mine, "pid": THEIRS, "function": SECRET}]
    found["a_later_section"] = {"words": [SECRET]}
    return found


def test_nothing_of_others_is_in_it(report: dict[str, Any]) -> None:
    """Neither in a field of today, nor in one that a later version adds."""
    assert SECRET in json.dumps(report)
    mine = redacted(report, lambda pid: pid == MINE)
    assert SECRET not in json.dumps(mine)
    jsonschema.validate(mine, report_schema.schema())
    assert [finding["pid"] for finding in mine["findings"]] == [MINE]
    assert mine["findings"][0]["advice"] == ADVICE
    assert any(process["command"] == HIDDEN for process in mine["processes"])


def test_sums_stay(report: dict[str, Any]) -> None:
    """That others were there, and for how long, any process list says."""
    mine = redacted(report, lambda pid: pid == MINE)
    for part in ("threads", "engines", "idle_by_cause", "gaps", "processes"):
        assert len(mine[part]) == len(report[part])
    assert [t["states"] for t in mine["threads"]] == [t["states"] for t in report["threads"]]
    assert [c["seconds"] for c in mine["idle_by_cause"]] == [c["seconds"] for c in report["idle_by_cause"]]


def test_a_finding_streamed_from_a_mixed_tree(report: dict[str, Any]) -> None:
    """The same holds for what a subscriber gets."""
    assert SECRET not in json.dumps(redacted_finding(report["findings"][0]))


class Tree:
    """A target: who owns all of it, and its report, in which not every process has a place."""

    def __init__(self, wholly: bool, report: dict[str, Any]) -> None:
        self.number, self.wholly, self.report = 1, wholly, report

    def finish(self, exit_status: int | None) -> dict[str, Any]:
        return self.report

    def owned_by(self, pid: int, uid: int) -> bool:
        return pid == MINE

    def wholly_owned_by(self, uid: int) -> bool:
        return self.wholly


@pytest.mark.parametrize("wholly", [True, False])
def test_only_a_tree_wholly_his_is_shown_as_it_is(report: dict[str, Any], wholly: bool) -> None:
    """The tree decides: another's process may be left out of a report that still quotes its command line."""
    report["processes"] = [process for process in report["processes"] if process["pid"] == MINE]
    report["threads"] = [thread for thread in report["threads"] if thread["pid"] == MINE]
    answers: list[Any] = []
    client = cast(
        Client,
        SimpleNamespace(scope=Scope.OWN, peer=Peer(1, 1000, 1000), answer=answers.append),
    )
    session = Session(client, cast(Target, Tree(wholly, report)), 0)
    sessions = Sessions(cast(Any, None))
    sessions.add(session)
    nothing: Any = SimpleNamespace(drain_waits=lambda: None)
    Requests(nothing, sessions, nothing, nothing, None).finish(client, Finish(1))
    assert (SECRET in json.dumps(answers[0].report)) == wholly


@pytest.mark.skipif(os.geteuid() != 0, reason="acts as another user")
def test_a_child_that_has_ended_is_still_its_parents_users() -> None:
    """Nobody has waited for it yet, and it has no memory to look into."""
    child = subprocess.Popen(["/bin/true"], user=65534, group=65534, extra_groups=[])
    try:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert Proc().sole_owner(child.pid) == 65534
    finally:
        child.wait()


def test_a_tree_is_not_wholly_his_any_more_once_anothers_was_in_it() -> None:
    """Not when that ended, nor when it became his: what is told of it may still be in the sums."""
    users = {1: 1000, 2: 1000, 3: 0}
    proc: Any = SimpleNamespace(sole_owner=users.__getitem__)
    owners = Owners(proc)
    assert not owners.owns_all(1000)  # nothing is known of it
    owners.learn(1)
    owners.learn(2)
    assert owners.owns_all(1000)
    owners.learn(3)
    assert not owners.owns_all(1000)
    users[3] = 1000
    owners.learn(3)
    assert not owners.owns_all(1000)
    owners.keep([1, 2])
    assert owners.owns_all(1000)
    assert (owners.owns_some(1000), owners.owns_some(0)) == (True, False)


class Listed(list[Session]):
    """Sessions that all observe what is asked for."""

    def of(self, pids: Any) -> list[Session]:
        return self


class Emptied(Target):
    """A target whose root has ended; a child of it runs."""

    def __init__(self, users: dict[int, int]) -> None:
        self.roots, self.number = (1,), 7
        self._owners = Owners(cast(Any, SimpleNamespace(sole_owner=users.get)))
        for pid in users:
            self._owners.learn(pid)


@pytest.mark.parametrize(
    ("users", "taken"),
    [({1: 1000, 2: 1000}, True), ({1: 1000, 2: 1000, 3: 0}, True), ({1: 0, 2: 1000}, False)],
)
def test_a_tree_stays_his_when_its_root_has_ended(users: dict[int, int], taken: bool) -> None:
    """Whose it was is known from when it ran, also after a cut; /proc has nothing of it any more."""
    target = Emptied(users)
    target._owners.keep((2, 3, *target.roots))  # type: ignore[union-attr]
    session = Session(None, target)
    proc: Any = SimpleNamespace(sole_owner={2: 1000}.get)
    sessions = cast(Any, Listed([session]))
    client: Any = SimpleNamespace(scope=Scope.OWN, peer=Peer(9, 1000, 1000), user=1000)
    requests = Requests(cast(Any, None), sessions, proc, Access(AccessConfig(others="own"), proc), None)
    refusal = requests._refuse_client(client, Observe(1, 2, ("x",)), (2,))
    assert (refusal is None) == taken == target.rooted_in(1000)
