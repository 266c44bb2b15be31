"""Which tests answer which question about a kernel: the rows of the table, and all that runs in a guest.

A guest is translated instruction by instruction, some twenty times slower than its host, so what compares
seconds with a clock outside stays out; what is here waits for conditions.
"""

from __future__ import annotations

from typing import NamedTuple

_IN = "tests/integration/"


class Row(NamedTuple):
    """One question. ``tests``: functions as pytest names them, without parameters unless one is wanted."""

    name: str
    label: str
    tests: tuple[str, ...]


ROWS = (
    Row(
        "load",
        "The probes load and attach; killed, they leave nothing",
        (
            _IN + "test_loader.py::test_everything_loads_and_closing_removes_it",
            _IN + "test_loader.py::test_sigkill_leaves_nothing_attached",
        ),
    ),
    Row(
        "network",
        "Network waits with the peer, IPv4 and IPv6",
        (
            _IN + "test_waits.py::test_network_wait_names_its_peer",
            _IN + "test_waits.py::test_short_socket_waits_are_summed_by_peer",
        ),
    ),
    Row(
        "waits",
        "Locks, children, pipes, local sockets, sleep, event loops",
        (_IN + "test_waits.py::test_every_kind_of_wait", _IN + "test_waits.py::test_states_sum_to_wall"),
    ),
    Row("disk", "Waits for a disk", (_IN + "test_waits.py::test_waiting_for_a_disk",)),
    Row(
        "runqueue",
        "Waiting for a CPU",
        (
            _IN + "test_waits.py::test_preemption_is_runqueue",
            _IN + "test_waits.py::test_turns_on_a_shared_cpu_are_told_together",
        ),
    ),
    Row(
        "throttled",
        "Throttled by a cgroup (v2)",
        (
            _IN + "test_throttled.py::test_the_one_who_uses_up_the_quota",
            _IN + "test_throttled.py::test_who_is_woken_into_a_throttled_queue",
        ),
    ),
    Row("gil", "The GIL told from locks", (_IN + "test_states.py::test_waiting_for_the_gil_is_not_a_lock",)),
    Row(
        "tree",
        "Descendants, and processes that run already",
        (
            _IN + "test_processes.py::test_descendants_are_followed",
            _IN + "test_processes.py::test_exec_from_a_thread_keeps_its_time",
            _IN + "test_waits.py::test_existing_threads_are_picked_up",
        ),
    ),
    Row(
        "discovery",
        "Programs that are noticed as they start",
        (_IN + "test_noticed.py::test_an_exec_is_announced_once_and_the_process_is_in_the_table",),
    ),
    Row(
        "woken",
        "The peer that woke an event loop",
        (_IN + "test_waits.py::test_the_socket_that_woke_a_selector_is_known",),
    ),
    Row(
        "reset",
        "A connection that was reset told from an answer",
        (_IN + "test_waits.py::test_how_a_connection_ended_a_wait",),
    ),
    Row(
        "spin",
        "Polling without sleeping told from work",
        (_IN + "test_waits.py::test_a_clock_tells_a_spin_from_work",),
    ),
    Row(
        "names",
        "Names of peers that were looked up",
        (_IN + "test_states.py::test_lookups_are_seen_with_their_addresses",),
    ),
    Row(
        "greetings",
        "Names of other peers, from TLS and HTTP",
        (
            _IN + "test_first_write.py::test_a_tls_client_names_its_peer",
            _IN + "test_first_write.py::test_an_http_client_names_its_peer",
        ),
    ),
    Row(
        "stacks",
        "Python functions and lines",
        (
            _IN + "test_pystack.py::test_every_frame_of_every_kind_of_wait[/usr/bin/python3]",
            _IN + "test_pystack.py::test_main_thread[/usr/bin/python3]",
            _IN + "test_stalls.py::test_a_hung_search_is_seen_while_it_hangs",
        ),
    ),
    Row(
        "llama",
        "llama.cpp: inferences, tokens, contexts",
        (
            _IN + "test_inferences.py::test_prompts_and_tokens_are_counted",
            _IN + "test_inferences.py::test_parameters_of_a_context_are_seen",
        ),
    ),
    Row(
        "whole",
        "run, record and report, end to end",
        (_IN + "test_recording.py::test_report_of_a_recording_is_the_live_report",),
    ),
)


def chosen(names: list[str]) -> list[str]:
    """What pytest is told, for these rows or (empty) all."""
    return [test for row in ROWS if not names or row.name in names for test in row.tests]


def row_of(test: str) -> str | None:
    """The row that a test, as pytest reports it, belongs to."""
    for row in ROWS:
        for prefix in row.tests:
            if test == prefix or test.startswith(prefix + "["):
                return row.name
    return None
