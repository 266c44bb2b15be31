"""What other versions and other people's scripts rely on does not change unnoticed."""

from __future__ import annotations

import dataclasses

import pytest

from whyidle_wire import records
from whyidle_wire.kinds import KIND_OF, KINDS
from whyidle_wire.records import FailureCode, Record, Unknown
from whyidle_wire.report import FINDING_KINDS, REPORT_SCHEMA, STATES, Finding, ReportDict, Thread
from whyidle_wire.schema import main, renewed_schema, schema_text

PINNED = {
    1: "Hello protocol client",
    2: "Welcome protocol daemon pid host",
    3: "Failure request code message hint",
    10: "Observe request pid command progress_interval_s record_path pids",
    11: "Observing request observation started_at processes threads",
    12: "Finish observation exit_status",
    13: "Report observation report",
    14: "Progress observation elapsed_s engine_busy_share wait processes threads events_lost gpus",
    15: "Ended observation exit_status",
    20: "Subscribe request kinds pid events",
    21: "Subscribed request",
    30: "FindingEvent observation finding",
    31: "SliceEvent observation pid tid thread state start_s duration_s syscall peer",
    32: "ProcessEvent observation what pid ppid command exit_status",
    33: "Dropped count",
    34: "Status request",
    35: "StatusReply request status",
    36: "StallEvent observation pid tid thread state start_s duration_s syscall peer function file line stack"
    " ended",
    50: "ListTargets request",
    51: "TargetList request targets",
}


def test_kinds_are_append_only() -> None:
    """Numbers, names and field order are those that were shipped; new ones are added to the pins."""
    table: dict[int, str] = {}
    for kind, cls in KINDS.items():
        assert dataclasses.is_dataclass(cls)
        table[kind] = " ".join([cls.__name__, *(field.name for field in dataclasses.fields(cls))])
    assert table == PINNED


def test_every_record_has_one_number() -> None:
    """Each record class is in the table exactly once; Unknown, which is never sent, is not."""
    classes = {
        value
        for value in vars(records).values()
        if isinstance(value, type) and issubclass(value, Record) and value not in (Record, Unknown)
    }
    assert set(KIND_OF) == classes
    assert len(KIND_OF) == len(KINDS)


def test_failure_codes_are_documented() -> None:
    """Every failure code is in the description of Failure."""
    codes = [value for name, value in vars(FailureCode).items() if name.isupper()]
    assert codes
    assert all(f"``{code}``" in (records.Failure.__doc__ or "") for code in codes)


def test_schema_file_is_the_code() -> None:
    """SCHEMA.md says what the code does; if not: python -m whyidle_wire.schema --write."""
    assert schema_text() == renewed_schema()


def test_schema_prints(capsys: pytest.CaptureFixture[str]) -> None:
    """The module prints the schema, and refuses arguments that it does not know."""
    assert main([]) == 0
    assert capsys.readouterr().out == schema_text()
    assert main(["--nonsense"]) == 2
    assert "usage" in capsys.readouterr().err


def test_report_contract() -> None:
    """The names of the report contract are all there."""
    assert REPORT_SCHEMA == "whyidle.report/1"
    assert " ".join(ReportDict.__annotations__) == (
        "schema host target processes threads engines gaps idle_by_cause findings what_if "
        "loss overhead memory loops processes_omitted threads_omitted recording parts"
    )
    assert " ".join(Finding.__annotations__).startswith(
        "kind severity confidence confidence_reasons pid tid thread function file line stack peer count "
        "blocked_s engine_idle_s share_of_idle saves_s advice"
    )
    assert Finding.__optional_keys__ == {"syscall", "longest_s", "chain"}
    assert set(Thread.__required_keys__) == {"pid", "tid", "name", "wall_s", "states"}
    assert len(STATES) == len(set(STATES)) == 16
    assert len(FINDING_KINDS) == len(set(FINDING_KINDS)) == 16
