"""Builds the stand-in for libcuda, and programs that use it. Nothing here is installed."""

from __future__ import annotations

import subprocess
from pathlib import Path

HERE = Path(__file__).parent


def build_libcuda(folder: Path) -> Path:
    """``libcuda.so.1`` in ``folder``."""
    library = folder / "libcuda.so.1"
    command = ["cc", "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden"]
    command += ["-Wl,-soname,libcuda.so.1", "-Wl,--hash-style=both", "-o", str(library)]
    subprocess.run([*command, str(HERE / "libcuda.c"), "-lpthread"], check=True)
    return library


# To be pasted before a program's own code; the library's path is its first argument.
JOB = """
import ctypes as c, sys, time
cuda = c.CDLL(sys.argv[1])
context, stream = c.c_void_p(), c.c_void_p()
cuda.cuInit(0); cuda.cuCtxCreate_v2(c.byref(context), 0, 0); cuda.cuStreamCreate(c.byref(stream), 1)
def launch(ms, on=stream, name="cuLaunchKernel"):
    takes = c.c_uint64(int(ms * 1e6))
    arguments = (c.c_void_p * 1)(c.addressof(takes))
    assert getattr(cuda, name)(None, 1, 1, 1, 1, 1, 1, 0, on, arguments, None) == 0
def sync(on=stream):
    assert cuda.cuStreamSynchronize(on) == 0
"""


def truth(path: Path) -> list[tuple[int, int]]:
    """Busy intervals of the simulated device, ns on CLOCK_MONOTONIC, by its own clock."""
    lines = (line.split() for line in path.read_text().splitlines())
    return [(int(start), int(end)) for start, end in lines]
