"""Code that a program makes and forgets: an agent's steps, each in the memory of the one before."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import suppress

import pytest

from harness import wait_until
from unit.pystack import pythons
from whyidle_daemon.proc import Proc
from whyidle_daemon.pystack import Frame, StackError, StackReader

STEPS = 150
PROGRAM = r"""
import json, sys
def wait():
    print(json.dumps([sys._getframe(1).f_code.co_filename, sys._getframe(1).f_lineno]), flush=True)
    sys.stdin.readline()
def source(number):
    before, between = "\n" * (number % 7), "\n" * (number % 5)
    return SOURCE
for number in range(int(sys.argv[1])):
    exec(compile(source(number), NAME, "exec"), {"wait": wait})
"""
SHORT = ('"x = %d\\n" % number + before + "wait()\\n"', "<module>")
IMPORTS = "'import time\\nimport json\\n' + before + 'x = json.dumps(%d)\\n' % number + between + "
MODULE = (IMPORTS + '"wait()\\nx = 5\\n"', "<module>")
FUNCTION = (IMPORTS + '"def f():\\n wait()\\nf()\\n"', "f")


@pytest.mark.parametrize("name", [*pythons.VERSIONS, pythons.SYSTEM])
@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("'<step %d>' % number", SHORT),
        ("'<step %d>' % number", MODULE),
        ("'<step %d>' % number", FUNCTION),
        ("'<string>'", FUNCTION),
        ("'/tmp/step.py'", SHORT),
        ("'/tmp/step.py'", MODULE),
    ],
)
def test_steps_that_follow_one_another(name: str, file: str, kind: tuple[str, str]) -> None:
    """Of each step the stack has its own file and line, although all of it lies where the last one lay."""
    if os.geteuid() != 0:
        pytest.skip("reading another process's memory needs root")
    source, function = kind
    code = PROGRAM.replace("NAME", file).replace("SOURCE", source)
    command = [pythons.need(name), "-c", code, str(STEPS)]
    wrong = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as target:
        assert target.stdin
        assert target.stdout
        try:
            said = target.stdout.readline()
            with StackReader(target.pid) as reader:
                while said:
                    expected = Frame(function, *json.loads(said))
                    wait_until(lambda: sleeps(reader, function), "the step to wait", every_s=0.0005)
                    found = reader.read(target.pid).frames[1]
                    if found != expected:
                        wrong.append((found, expected))
                    target.stdin.write("\n")
                    target.stdin.flush()
                    said = target.stdout.readline()
        finally:
            target.kill()
    assert not wrong


def sleeps(reader: StackReader, function: str) -> bool:
    """Does the first thread sleep in what a function of any step called?"""
    with suppress(StackError):
        names = [frame.function for frame in reader.read(reader.pid).frames[:2]]
        return names == ["wait", function] and Proc().state(reader.pid) == "S"
    return False
