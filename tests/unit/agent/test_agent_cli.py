"""The command line of `whyidle-agent`."""

from pathlib import Path

import pytest

from whyidle_agent.main import main


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["model", "--help"]])
def test_help_works_without_a_model(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Help exits with 0; that of the program and of `run` has examples."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert "model" in arguments or "examples:" in out


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--loops", "0"],
        ["run", "--loops", "x"],
        ["run", "--tokens", "10"],
        ["run", "--timeout", "nan"],
        ["run", "--search-url", "ftp://x"],
        ["--temperature", "0"],
        ["fly"],
        ["--nonsense"],
    ],
)
def test_usage_errors(arguments: list[str]) -> None:
    """An argument out of range is refused with status 2 before anything is loaded."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2


def test_no_arguments_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    """Without arguments the program says what it can do."""
    assert main([]) == 2
    assert "whyidle-agent" in capsys.readouterr().out


def test_an_error_is_two_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing model ends with 1, one line that says what happened and one that says what to do."""
    path = tmp_path / "no\x1b[2Jsuch.gguf"
    assert main(["run", "--model", str(path), "--workdir", str(tmp_path)]) == 1
    what, todo = capsys.readouterr().err.splitlines()
    assert what == f"whyidle-agent: no model file at {tmp_path}/no [2Jsuch.gguf"
    assert todo.startswith("  give the path of a .gguf file")


def test_an_unusable_work_folder_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A work folder below a file is one clear error, before the model is loaded."""
    (tmp_path / "file").write_text("")
    assert main(["run", "--model", str(tmp_path / "file"), "--workdir", str(tmp_path / "file" / "work")]) == 1
    assert "--workdir" in capsys.readouterr().err
