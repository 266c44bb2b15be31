"""The building blocks of every output: harmless text, columns, bars, numbers."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from whyidle_cli.render.states import state_bar, state_legend
from whyidle_cli.render.text import bar, cells, column, fit, peer_text, wrap
from whyidle_cli.render.units import count, percent, seconds, size
from whyidle_cli.sanitize import sanitize
from whyidle_wire.report import STATES

UNSAFE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


@given(st.text(max_size=300), st.integers(1, 300))
def test_sanitize(text: str, limit: int) -> None:
    """The result has no unsafe character, is never too long, and is not changed by doing it again."""
    clean = sanitize(text, limit)
    assert len(clean) <= limit
    assert not any(unicodedata.category(character) in UNSAFE for character in clean)
    assert sanitize(clean, limit) == clean


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("plain text, ümläut, 漢字, ✓", "plain text, ümläut, 漢字, ✓"),
        ("a\tb\nc\r", "a b c "),
        ("\x1b[31mred\x1b]0;t\x07", "\ufffd[31mred\ufffd]0;t\ufffd"),
        ("\x9b2J\x7f\x00", "\ufffd2J\ufffd\ufffd"),
        ("\u202eevil\u2066\u200b\ufeff", "\ufffdevil\ufffd\ufffd\ufffd"),
        ("\u2028\u2029\ue000\udc80", "\ufffd\ufffd\ufffd\ufffd"),
    ],
)
def test_sanitize_examples(text: str, clean: str) -> None:
    """Letters of all scripts pass; what a terminal or a reader would obey does not."""
    assert sanitize(text) == clean


def test_sanitize_cuts() -> None:
    """What is cut off is marked."""
    assert sanitize("abcdef", 4) == "abc…"
    assert sanitize("abcd", 4) == "abcd"
    assert len(sanitize("x" * 10**7)) == 200


@given(st.text(max_size=50), st.integers(1, 40))
def test_columns(text: str, width: int) -> None:
    """A fitted text is at most, a column exactly as wide as it should be, in cells."""
    assert cell_len(fit(text, width)) <= width
    assert cell_len(column(text, width)) == width
    assert cell_len(column(text, width, right=True)) == width


@given(st.text(max_size=200), st.integers(20, 80))
def test_wrapped_lines_fit(text: str, width: int) -> None:
    """Wrapped lines with their prefixes are no wider than asked for."""
    assert all(line.cell_len <= width for line in wrap(text, width, first="- ", rest="    "))


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=16), st.integers(1, 100))
def test_cells(shares: list[float], width: int) -> None:
    """The cells of a stacked bar add up to its width exactly, unless there is nothing to show."""
    divided = cells(shares, width)
    assert min(divided) >= 0
    assert sum(divided) == (width if sum(shares) > 0 else 0)


@given(
    st.dictionaries(st.sampled_from(STATES) | st.text(max_size=30), st.floats(0, 1e6), max_size=20),
    st.integers(10, 60),
)
def test_state_bars(states: dict[str, float], width: int) -> None:
    """Bars have their width and legends at most theirs, for any states, known or not."""
    assert state_bar(states, width).cell_len == width
    assert "\x1b" not in state_legend(states, width)


@pytest.mark.parametrize(
    ("share", "drawn"),
    [
        (0, "    "),
        (1, "████"),
        (0.5, "██  "),
        (0.001, "▏   "),
        (0.28, "█▏  "),
        (7, "████"),
        (-1, "    "),
        (None, "    "),
    ],
)
def test_bar(share: float | None, drawn: str) -> None:
    """Bars are exact to an eighth of a cell; what is not nothing is always seen."""
    assert bar(share, 4) == drawn


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "unknown"), (0.0, "0 s"), (0.00004, "0.0 ms"), (0.0123, "12.3 ms"), (0.312, "312 ms"),
        (0.9996, "1.00 s"), (7.412, "7.41 s"), (12.41, "12.4 s"), (59.96, "1 min 00 s"),
        (125.4, "2 min 05 s"), (3725.0, "1 h 02 min"),
        (-1.5, "-1.50 s"),
    ],
)  # fmt: skip
def test_seconds(value: float | None, text: str) -> None:
    """Three digits that matter, in the unit that people would use."""
    assert seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "unknown"), (0, "0 %"), (0.001, "<1 %"), (0.999, ">99 %"), (1, "100 %"), (0.234, "23 %")],
)
def test_percent(value: float | None, text: str) -> None:
    """Neither something rounded to nothing nor less than all rounded to all."""
    assert percent(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "unknown"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (214_300_000, "214 MB"),
        (5 * 10**15, "5000 TB"),
    ],
)
def test_size(value: int | None, text: str) -> None:
    """Bytes in decimal units."""
    assert size(value) == text


def test_count() -> None:
    """One thing is singular."""
    assert [count(1, "process", "processes"), count(0, "CPU"), count(2, "process", "processes")] == [
        "1 process", "0 CPUs", "2 processes"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("peer", "text"),
    [
        (None, ""),
        ({"host": None, "address": "127.0.0.1", "port": 80}, "127.0.0.1:80"),
        ({"host": None, "address": "::1", "port": 80}, "[::1]:80"),
        ({"host": "a.example", "address": "1.2.3.4", "port": 443}, "a.example (1.2.3.4:443)"),
        ({"host": "a.example", "address": "", "port": 0}, "a.example"),
    ],
)
def test_peer(peer: dict[str, Any] | None, text: str) -> None:
    """Names first, addresses as people write them."""
    assert peer_text(peer) == text
