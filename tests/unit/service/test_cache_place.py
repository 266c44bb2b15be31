"""Where compiled probes are kept: never in a place of another service."""

from __future__ import annotations

from pathlib import Path

import pytest

from whyidle_daemon import main as daemon

PRIVATE = ["--connection-fd", "3"]


@pytest.mark.parametrize(
    ("words", "variables", "place"),
    [
        ([], {}, "default"),
        ([], {"CACHE_DIRECTORY": "unit"}, "unit"),
        ([], {"CACHE_DIRECTORY": "unit:another"}, "unit"),
        ([], {"WHYIDLE_CACHE": "."}, "probes"),
        ([], {"WHYIDLE_CACHE": "", "CACHE_DIRECTORY": ""}, "default"),
        (["--cache", "{0}/given"], {"CACHE_DIRECTORY": "unit"}, "given"),
        (["--cache", ""], {"CACHE_DIRECTORY": "unit"}, None),
        (PRIVATE, {}, "default"),
        (PRIVATE, {"CACHE_DIRECTORY": "of the agent's unit"}, "default"),
        (PRIVATE, {"CACHE_DIRECTORY": "of the agent's unit", "WHYIDLE_CACHE": "."}, "probes"),
    ],
)
def test_where_probes_are_kept(
    words: list[str],
    variables: dict[str, str],
    place: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is made for it yet."""
    monkeypatch.setattr(daemon, "DEFAULT_CACHE", tmp_path / "default")
    for name in ("CACHE_DIRECTORY", "WHYIDLE_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value and str(tmp_path / value))
    options = daemon._parser().parse_args([word.format(tmp_path) for word in words])
    assert daemon._cache(options) == (tmp_path / place if place else None)
    assert not list(tmp_path.iterdir())
