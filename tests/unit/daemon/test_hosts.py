"""Which name an address gets."""

from __future__ import annotations

from whyidle_daemon.facts import HostName
from whyidle_daemon.hosts import LIFETIME_NS, MAX_NAMES, Hosts
from whyidle_daemon.processes import Process

ADDRESS = bytes([93, 184, 216, 34])
OTHER_CONTAINER = 5


def process(pid: int = 1, netns: int = 4) -> Process:
    found = Process(pid, 0, provisional=False)
    found.netns = netns
    return found


def name(host: str, port: int = 0, path: str = "", pid: int = 1, ns: int = 100, netns: int = 4) -> HostName:
    return HostName(pid, ns, 2, ADDRESS, host, port, path, netns)


def known(
    names: list[HostName], of: Process, port: int = 443, ns: int = 200
) -> tuple[str | None, str | None]:
    hosts = Hosts()
    for each in names:
        hosts.add(each)
    return hosts.of(of, (2, ADDRESS, port), ns)


def test_what_was_looked_up_goes_before_what_was_said() -> None:
    """The SNI of a proxy's client is another host than the proxy, which was looked up."""
    assert known([name("looked.up"), name("said", 443, "/p", ns=150)], process()) == ("looked.up", "/p")


def test_what_was_said_names_what_was_not_looked_up() -> None:
    """Of the same port alone: other services may share the address."""
    names = [name("said", 443), name("", 80, "/path")]
    assert known(names, process()) == ("said", None)
    assert known(names, process(), port=80) == (None, "/path")
    assert known(names, process(), port=22) == (None, None)


def test_names_of_other_processes_are_of_the_same_network_and_recent() -> None:
    """A private address is another host in another container, and names move."""
    names = [name("theirs", 443, "/theirs", pid=2)]
    assert known(names, process()) == ("theirs", None)
    assert known(names, process(netns=OTHER_CONTAINER)) == (None, None)
    assert known(names, process(), ns=100 + LIFETIME_NS + 1) == (None, None)
    assert known(names, process(pid=2), ns=100 + LIFETIME_NS + 1) == ("theirs", "/theirs")


def test_a_path_is_shown_when_there_is_one() -> None:
    """Requests for several paths have none, also not that of the last one."""
    names = [name("said", 80, path) for path in ("/a", "/b", "/b")]
    assert known(names[:1], process(), port=80) == ("said", "/a")
    assert known(names, process(), port=80) == ("said", None)


def test_many_connections_do_not_push_out_what_was_looked_up() -> None:
    """One name per host and process, however many connections."""
    names = [name("looked.up"), *(name("said", 443, f"/{n}", ns=n) for n in range(200, 200 + 3 * MAX_NAMES))]
    assert known(names, process()) == ("looked.up", None)


def test_all_can_be_taken_over() -> None:
    """The names of one table make another that says the same."""
    first, second = Hosts(), Hosts()
    for each in [name("looked.up"), name("said", 443, "/p", pid=2), name("", 80, "/x")]:
        first.add(each)
    for each in first.all():
        second.add(each)
    assert list(second.all()) == list(first.all())
