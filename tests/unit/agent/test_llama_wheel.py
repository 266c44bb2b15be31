"""build.sh: built once, kept whole, and clear about what went wrong. pip is a fake here."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "agent" / "llama_wheel" / "build.sh"
(VERSION,) = re.findall(r'"llama-cpp-python==([\w.]+)"', (ROOT / "pyproject.toml").read_text())
WHEEL = f"llama_cpp_python-{VERSION}-py3-none-linux_x86_64.whl"

# Answers `-m pip --version` and `-m pip wheel ... -w DIR`; says what it was asked in $CALLS.
PYTHON = """#!/bin/sh
case "$*" in *--version*) exit 0;; esac
echo "$* / $CMAKE_ARGS" >> "$CALLS"
while [ $# -gt 0 ]; do [ "$1" = -w ] && out=$2; shift; done
"""


class Host:
    """A cache folder and a fake python in a temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.wheels = folder / "cache" / "wheels"
        self.calls = folder / "calls"
        self.python = folder / "python"
        self.environment = {**os.environ, "WHYIDLE_CACHE": str(folder / "cache"), "CALLS": str(self.calls)}

    def pip_does(self, script: str) -> None:
        self.python.write_text(PYTHON + script)
        self.python.chmod(0o755)

    def start(self) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [SCRIPT, self.python],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
        )

    def build(self) -> tuple[int, str, str]:
        with self.start() as process:
            out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def left(self) -> list[str]:
        """Return what is in the cache but for the lock and the log."""
        return sorted(
            path.name for path in self.wheels.iterdir() if path.name != ".lock" and path.suffix != ".log"
        )


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_built_once_with_the_pinned_version(host: Host) -> None:
    """The first run builds the version that pyproject.toml pins, the second finds it and asks pip nothing."""
    host.pip_does(f'touch "$out/{WHEEL}"\n')
    for _ in range(2):
        status, out, err = host.build()
        assert (status, out) == (0, f"{host.wheels / WHEEL}\n")
    assert err == ""
    (call,) = host.calls.read_text().splitlines()
    assert f"--no-deps --no-binary llama-cpp-python llama-cpp-python=={VERSION}" in call
    include = re.findall(r"-DCMAKE_PROJECT_llama\.cpp_INCLUDE=(\S+)", call)[0]
    assert "LLAMA_BUILD_COMMON OFF" in Path(include).read_text()
    assert Path(include).is_absolute()
    assert host.left() == [WHEEL]


def test_another_version_in_the_cache_does_not_count(host: Host) -> None:
    """A wheel of an older pin is not taken for the current one."""
    host.wheels.mkdir(parents=True)
    (host.wheels / WHEEL.replace(VERSION, "0.0.1")).touch()
    host.pip_does(f'touch "$out/{WHEEL}"\n')
    assert host.build()[:2] == (0, f"{host.wheels / WHEEL}\n")


def test_a_failed_build_shows_the_end_of_its_log(host: Host) -> None:
    """A failure exits with 1, shows the log's last lines, keeps the log and leaves nothing else."""
    host.pip_does("seq 1 100; echo 'fatal: no compiler' >&2; exit 7\n")
    status, out, err = host.build()
    assert (status, out) == (1, "")
    assert "  | fatal: no compiler" in err
    assert "  | 99\n" in err
    assert "  | 10\n" not in err
    assert host.left() == []
    assert "no compiler" in (host.wheels / f"llama-cpp-python-{VERSION}.log").read_text()


def test_a_build_without_a_wheel_is_a_failure(host: Host) -> None:
    """pip's word alone is not enough: the wheel of that version must be there."""
    host.pip_does("exit 0\n")
    status, out, err = host.build()
    assert (status, out) == (1, "")
    assert "left no wheel" in err


def test_a_python_without_pip_is_named(host: Host) -> None:
    """A python that has no pip is refused at once, with the package that brings it."""
    host.python.write_text("#!/bin/sh\nexit 1\n")
    host.python.chmod(0o755)
    status, _, err = host.build()
    assert status == 1
    assert f"{host.python} has no pip" in err
    assert "python3-pip" in err


def test_two_builds_at_once_build_once(host: Host) -> None:
    """A second build waits for the first and uses its wheel."""
    host.pip_does(f'sleep 1; touch "$out/{WHEEL}"\n')
    with host.start() as one, host.start() as two:
        assert [process.communicate(timeout=60)[0] for process in (one, two)] == [
            f"{host.wheels / WHEEL}\n"
        ] * 2
    assert len(host.calls.read_text().splitlines()) == 1


def test_an_interrupted_build_leaves_nothing(host: Host) -> None:
    """SIGTERM stops pip and its compilers, and removes the half-built folder."""
    host.pip_does('sleep 3600 & echo $! > "$CALLS.pid"; wait\n')
    note = host.calls.with_suffix(".pid")
    with host.start() as process:
        deadline = time.monotonic() + 30
        while not (note.exists() and note.read_text().strip()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 143
    assert host.left() == []
    compiler = int(note.read_text())
    deadline = time.monotonic() + 30
    # Gone, or a zombie that nobody in this container reaps.
    while (stat := Path(f"/proc/{compiler}/stat")).exists() and stat.read_text().rpartition(")")[2].split()[
        0
    ] != "Z":
        assert time.monotonic() < deadline, "the compiler outlived the build"
        time.sleep(0.01)
