"""Where the JSON goes: what is never destroyed, and what is written to though it cannot be replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from whyidle_cli.errors import CannotRecord
from whyidle_cli.main import main
from whyidle_cli.recording import check_record
from whyidle_daemon.recording.blocks import MAGIC


@pytest.mark.parametrize("words", [["--json", "a.rec", "b.rec"], ["a.rec", "--json", "a.rec"]])
def test_a_recording_is_never_replaced_by_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    """``--json *.rec`` takes the first one for the place to write to."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.rec", "b.rec"):
        Path(name).write_bytes(MAGIC + b" and the rest")
    assert main(["report", *words]) == 1
    what, fix = capsys.readouterr().err.splitlines()
    assert what == "whyidle: cannot write a.rec: it is a recording, which a report never replaces"
    assert "--json takes a file, no recording" in fix
    assert Path("a.rec").read_bytes() == MAGIC + b" and the rest"


def test_report_and_recording_are_not_one_file(tmp_path: Path) -> None:
    """Neither is there yet; by whatever way the two are the same."""
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(CannotRecord, match="--json names the same file"):
        check_record(tmp_path / "x", tmp_path / "link" / "x")
    assert check_record(tmp_path / "x", tmp_path / "y") == tmp_path / "x"
    assert check_record(tmp_path / "x", None) == tmp_path / "x"
