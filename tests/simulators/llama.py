"""Builds a llama_decode that only takes time, and a program that calls it as often as it can."""

from __future__ import annotations

import subprocess
from pathlib import Path

HERE = Path(__file__).parent
VARIABLE = "WHYIDLE_SIM_DECODE_NS"


def build(folder: Path) -> tuple[Path, Path]:
    """The program and the library, in ``folder``."""
    program, library = folder / "decodes", folder / "libllama.so"
    flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-o"]
    subprocess.run(["cc", *flags, program, HERE / "decodes.c", "-ldl"], check=True)
    subprocess.run(["cc", "-shared", "-fPIC", *flags, library, HERE / "libllama.c"], check=True)
    return program, library
