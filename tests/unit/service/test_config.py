"""Every mistake in the configuration is one line that names the file and the key."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whyidle_daemon import config as configuration
from whyidle_daemon.config import CONDITIONS, Config, ConfigError, load, parse
from whyidle_daemon.main import main

FILE = Path("/etc/whyidle/config.toml")

MISTAKES = {
    "[acces]\ngroup = 'x'": "acces: there is no such key; did you mean 'access'?",
    "[access]\nothres = 'own'": "access.othres: there is no such key; did you mean 'others'?",
    "[access]\nzzzzzz = 1": "access.zzzzzz: there is no such key; known here: group",
    "[access]\nothers = 'everybody'": "access.others: Invalid enum value 'everybody'",
    "[access]\nconnections_per_user = 0": "access.connections_per_user: expected int >= 1",
    "[access]\nconnections_per_user = '5'": "access.connections_per_user: expected int, got str",
    "[access]\nconnections_per_user = 1.5": "access.connections_per_user: expected int, got float",
    "[metrics]\nlisten = 'localhost:9747'": "metrics.listen: 'localhost' does not appear to be an IPv4",
    "[metrics]\nlisten = '9747'": "metrics.listen: '' does not appear",
    "[metrics]\nlisten = '127.0.0.1:http'": "metrics.listen: expected ADDRESS:PORT, such as 127.0.0.1:9747",
    "[metrics]\nlisten = '[::1]:99999'": "metrics.listen: expected ADDRESS:PORT",
    "[history]\nmax_megabytes = 1": "history.max_megabytes: expected int >= 32",
    "access = 1": "access: expected object, got int",
    "[daemon]\nstall_threshold_s = nan": "daemon.stall_threshold_s: expected float >= 0.05",
    "[daemon]\nlog_level = 'loud'": "daemon.log_level: Invalid enum value 'loud'",
    "[[discovery.rule]]\nname = 'a'": "discovery.rule[1]: has no condition",
    "[[discovery.rule]]\ncommand = ['x']": "discovery.rule[1]: Object missing required field name",
    "[[discovery.rule]]\nname = 'a'\ncommand = 'x'": "discovery.rule[1].command: expected array, got str",
    "[[discovery.rule]]\nname = 'a'\ncommand = ['']":
        "discovery.rule[1].command[1]: expected str of length >= 1",
    "[[discovery.rule]]\nname = 'a'\nexecutabel = ['x']": "did you mean 'executable'?",
    "[[discovery.rule]]\nname = 'a'\nmaps = ['x']\n[[discovery.rule]]\nname = 'a'\nmaps = ['y']":
        "discovery.rule[2].name: 'a' is the name of another rule already",
    "[access\n": "is not TOML",
    "a = 1\na = 2": "is not TOML",
    "\"a\\nb\" = 1": "a b: there is no such key",
}  # fmt: skip


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_is_one_clear_line(text: str) -> None:
    """The line has the file, the key where there is one, and what is wrong."""
    with pytest.raises(ConfigError) as caught:
        parse(text.encode(), FILE)
    message = str(caught.value)
    assert message.startswith(f"{FILE}: ")
    assert MISTAKES[text] in message
    assert "\n" not in message


def test_an_empty_file_is_the_defaults() -> None:
    """Every key has a default."""
    assert parse(b"", FILE) == Config()


def test_the_shipped_example_is_good() -> None:
    """The file that is installed says what holds without it."""
    shipped = Path(__file__).parents[3] / "systemd" / "config.toml"
    assert parse(shipped.read_bytes(), shipped) == Config()
    lines = shipped.read_text().splitlines()
    values = [line.removeprefix("#") if line[:1] == "#" and line[1:2].isalpha() else line for line in lines]
    assert values != lines
    assert parse("\n".join(values).encode(), shipped) == Config()
    start = next(n for n, line in enumerate(lines) if line.startswith("# [["))
    rules = parse(
        "\n".join(line.removeprefix("#") for line in lines[start:]).encode(), shipped
    ).discovery.rule
    assert [rule.ignore for rule in rules] == [False, True]


@given(st.binary(max_size=300))
def test_any_bytes_are_good_or_one_error(data: bytes) -> None:
    """Nothing that a file may hold raises anything else."""
    with contextlib.suppress(ConfigError):
        parse(data, FILE)


def test_what_is_no_good_file(tmp_path: Path) -> None:
    """Missing, a directory, a FIFO, not UTF-8, too long, writable by everybody: each is said."""
    good = tmp_path / "good"
    good.write_text("")
    cases = {tmp_path / "none": "No such file", tmp_path: "not a regular file"}
    fifo, text, long, loose = (tmp_path / name for name in ("fifo", "text", "long", "loose"))
    os.mkfifo(fifo)
    text.write_bytes(b"\n\n# \xff")
    long.write_bytes(b"#" * (configuration.MAX_BYTES + 1))
    loose.write_text("")
    loose.chmod(0o666)
    cases |= {fifo: "regular", text: "line 3: is not UTF-8", long: "longer", loose: "everybody"}
    for path, words in cases.items():
        with pytest.raises(ConfigError, match=words):
            load(path)
    assert load(good) == Config()


def test_no_default_file_is_no_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a file at the default place the defaults hold."""
    monkeypatch.setattr(configuration, "DEFAULT_PATH", tmp_path / "none")
    assert load(None) == Config()


def test_check_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``whyidled --check-config`` ends with 0 or 2, and says in one line which file it looked at."""
    path = tmp_path / "c.toml"
    path.write_text("[access]\nothers = 'own'\n")
    assert main(["--check-config", "--config", str(path)]) == 0
    assert str(path) in capsys.readouterr().out
    path.write_text("[acess]\n")
    assert main(["--check-config", "--config", str(path)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "did you mean 'access'?" in said[0]


def test_the_shipped_example_says_all_of_it() -> None:
    """Every setting with its bounds, and every condition of a rule."""
    text = (Path(__file__).parents[3] / "systemd" / "config.toml").read_text()
    for section in ("daemon", "access", "history", "metrics", "discovery"):
        kind = get_type_hints(Config)[section]
        part = text.split(f"[{section}]\n")[1].split("\n[")[0]
        for key, hint in get_type_hints(kind, include_extras=True).items():
            if key == "rule":
                continue
            said = part.split(f"#{key} = ")[1].split("\n#")[0]
            for meta in getattr(hint, "__metadata__", ()):
                for bound in (meta.ge, meta.le):
                    assert bound is None or str(bound) in said, key
    for name in CONDITIONS:
        assert re.search(rf"^#   {name} ", text, re.MULTILINE), name
