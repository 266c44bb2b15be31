"""The header is the truth: what the C compiler makes of it is what the Python mirror reads."""

from __future__ import annotations

import re
import struct
import subprocess
from pathlib import Path

import pytest

from whyidle_probes import events, structs

HEADER = Path(structs.__file__).parent / "bpf" / "events.h"
FORMATS = {
    "wi_slice": structs._SLICE,
    "wi_thread": structs._THREAD,
    "wi_fork": structs._FORK,
    "wi_start": structs._START,
    "wi_exec": structs._EXEC,
    "wi_exit": structs._EXIT,
    "wi_library": structs._LIBRARY,
    "wi_gap": structs._GAP,
    "wi_engine_key": structs._ENGINE_KEY,
    "wi_engine": structs._ENGINE,
    "wi_wait_key": structs._WAIT_KEY,
    "wi_wait": structs._WAIT,
    "wi_lookup": structs._LOOKUP,
    "wi_inference": structs._INFERENCE,
    "wi_context": structs._CONTEXT,
    "wi_first_write": structs._FIRST_WRITE,
    "wi_range": structs.RANGE,
    "wi_config": structs.CONFIG,
}


@pytest.fixture(scope="module")
def header() -> str:
    return HEADER.read_text()


@pytest.fixture(scope="module")
def compiled(header: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[int]]:
    """struct -> offset of each scalar (arrays element by element), as the C compiler lays them out."""
    lines = []
    for name, body in re.findall(r"struct (\w+) \{(.*?)\n\};", header, re.DOTALL):
        lines.append(f'printf("{name} size %zu\\n", sizeof(struct {name}));')
        for member in re.findall(r"(\w+)(?:\[[^]]*\])?;", re.sub(r"/\*.*?\*/", "", body, flags=re.DOTALL)):
            lines.append(
                f'printf("{name} {member} %zu %zu\\n", offsetof(struct {name}, {member}), '
                f"sizeof(((struct {name} *)0)->{member}));"
            )
    directory = tmp_path_factory.mktemp("layout")
    source = directory / "dump.c"
    source.write_text(
        f'#include <stdio.h>\n#include <stddef.h>\n#include "{HEADER}"\nint main(void) {{\n'
        + "\n".join(lines)
        + "\nreturn 0; }\n"
    )
    subprocess.run(["cc", "-Wall", "-Werror", "-o", directory / "dump", source], check=True)
    out = subprocess.run([directory / "dump"], check=True, capture_output=True, text=True).stdout
    found: dict[str, list[int]] = {}
    for line in out.splitlines():
        name, _member, *numbers = line.split()
        found.setdefault(name, []).extend(map(int, numbers))
    return found


@pytest.mark.parametrize("name", sorted(structs.SIZES))
def test_sizes(name: str, compiled: dict[str, list[int]]) -> None:
    """Every struct has the size that the mirror assumes."""
    assert compiled[name][0] == structs.SIZES[name]


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_each_byte_lands_in_the_field_of_the_same_offset(name: str, compiled: dict[str, list[int]]) -> None:
    """Setting the first byte of any C member changes exactly one unpacked value, in declaration order."""
    form = FORMATS[name]
    zero = form.unpack(bytes(form.size))
    order = []
    for offset in compiled[name][1::2]:
        data = bytearray(form.size)
        data[offset] = 1
        values = form.unpack(bytes(data))
        changed = [i for i, (a, b) in enumerate(zip(zero, values, strict=True)) if a != b]
        assert len(changed) <= 1  # explicit padding changes nothing
        order += changed
    assert order == sorted(set(order))


@pytest.mark.parametrize(
    ("prefix", "mirror"),
    [("WI_EV_", events.EventType), ("WI_STAT_", events.Stat)],
)
def test_enums(prefix: str, mirror: type, header: str) -> None:
    """Each number of the header has the same name in the mirror, and none is missing."""
    numbers = {name: int(value) for name, value in re.findall(rf"\b{prefix}(\w+) = (\d+)", header)}
    assert numbers == {member.name: member.value for member in mirror}  # type: ignore[attr-defined]


def test_wait_states(header: str) -> None:
    """The wait states agree, and fit the arrays."""
    body = header.split("enum wi_state {")[1].split("}", maxsplit=1)[0]
    numbers = {name: int(value) for name, value in re.findall(r"WI_(\w+) = (\d+)", body)}
    assert numbers.pop("STATES") == events.STATES
    assert numbers == {wait.name: wait.value for wait in events.Wait}
    assert max(numbers.values()) < events.STATES


def test_unknown_and_short_events_are_refused() -> None:
    """A record of another version is an error that says so, never a wrong reading."""
    with pytest.raises(structs.BadEventError, match="unknown event type 99"):
        structs.decode_event(struct.pack("<II", 99, 0) + bytes(600))
    all_header = {events.EventType.NOTICED, events.EventType.NOTES_WANTED}
    for kind in set(events.EventType) - all_header:
        with pytest.raises(structs.BadEventError):
            structs.decode_event(struct.pack("<II", kind, 0) + bytes(8))
    with pytest.raises(structs.BadEventError):
        structs.decode_event(b"\1")


def test_torn_thread_is_not_decoded() -> None:
    """A record copied while the kernel was writing it is recognised."""
    data = bytearray(structs.SIZES["wi_thread"])
    assert structs.decode_thread(bytes(data)) is not None
    data[-8] = 1  # begun moved on, done did not
    assert structs.decode_thread(bytes(data)) is None


def test_a_brief_is_the_thread_in_brief() -> None:
    """The quick reading of many threads finds the same fields as the whole one of each."""
    size = structs.SIZES["wi_thread"]
    data = bytearray(bytes(range(1, 256)) * 5)[: 2 * size]
    for start in (0, size):  # a whole copy: begun and done are the same
        data[start + size - 8 : start + size] = data[start : start + 8]
    threads = [structs.decode_thread(bytes(data), start) for start in (0, size)]
    assert list(structs.decode_briefs(bytes(data))) == [
        (t.pid, t.tid, t.target, t.last_ns, t.end_ns, t.state) for t in threads if t is not None
    ]
