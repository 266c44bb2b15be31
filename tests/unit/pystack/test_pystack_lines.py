"""Line tables against what each interpreter says of its own code."""

from __future__ import annotations

import json
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unit.pystack import pythons
from whyidle_daemon.pystack import lines

DUMP = r"""
import dis, json, sys, types, asyncio.tasks, argparse, inspect, textwrap
def walk(code):
    yield code
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from walk(const)
out = []
for module in (asyncio.tasks, argparse, inspect, textwrap):
    with open(module.__file__) as file:
        top = compile(file.read(), "x", "exec")
    for code in walk(top):
        if sys.version_info >= (3, 10):
            table, spans = code.co_linetable, list(code.co_lines())
        else:
            table = code.co_lnotab
            starts = list(dis.findlinestarts(code)) + [(len(code.co_code), None)]
            spans = [(a, b, line) for (a, line), (b, _) in zip(starts, starts[1:])]
        out.append((table.hex(), code.co_firstlineno, spans))
json.dump(out, sys.stdout)
"""


@pytest.mark.parametrize("name", pythons.VERSIONS)
def test_every_instruction_of_real_code(name: str) -> None:
    """For every instruction of four big modules the line is the one that CPython itself names."""
    out = subprocess.run([pythons.need(name), "-c", DUMP], check=True, capture_output=True).stdout
    version = (3, int(name.split(".")[1]))
    checked = 0
    for table, first, spans in json.loads(out):
        raw = bytes.fromhex(table)
        for start, end, expected in spans:
            for offset in range(start, end, 2):
                assert lines.line(version, raw, first, offset) == expected
                checked += 1
    assert checked > 10_000


@given(
    st.sampled_from([(3, 8), (3, 10), (3, 11)]),
    st.binary(max_size=400),
    st.integers(0, 1 << 31),
    st.integers(-2, 1 << 26),
)
def test_any_bytes_as_a_table(version: tuple[int, int], table: bytes, first: int, offset: int) -> None:
    """A table of any content gives a number or nothing."""
    found = lines.line(version, table, first, offset)
    assert found is None or isinstance(found, int)


def test_an_endless_number_is_cut() -> None:
    """A number of a thousand bytes does not grow into a huge integer."""
    found = lines.from_locations(bytes([0x80 | 14 << 3, *([0x7F] * 1000)]), 1, 0)
    assert found is None or abs(found) < 1 << 70
