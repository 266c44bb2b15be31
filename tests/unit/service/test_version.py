"""The daemon knows its version without the library that would tell it."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

from whyidle_daemon.version import VERSION


def test_it_is_the_installed_one() -> None:
    """As importlib.metadata has it, which is not loaded for it."""
    assert metadata.version("whyidle") == VERSION
    code = "import sys, whyidle_daemon.version; print('importlib.metadata' in sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
