"""A simulated NVIDIA GPU that computes when a llama.cpp model really does: builds what stands in between.

``llama_gpu.py GPUS COMMAND…`` makes the file ``GPUS`` and runs a command on such a GPU.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from simulators import nvml

FOLDER = nvml.ROOT / "out" / "simulators" / "llama"


@cache
def build(visible: bool = True) -> Path:
    """The folder that LLAMA_CPP_LIB_PATH shall name.

    Not ``visible``: the real library has another name there, so that nobody finds it who goes by names, and
    the GPU is all that is seen of the model.
    """
    (package,) = importlib.util.find_spec("llama_cpp").submodule_search_locations  # type: ignore[union-attr]
    real = Path(package) / "lib"
    folder = FOLDER / ("visible" if visible else "hidden")
    folder.mkdir(parents=True, exist_ok=True)
    libraries = real
    if not visible:
        libraries = folder / "libraries"
        shutil.rmtree(libraries, ignore_errors=True)
        libraries.mkdir()
        for library in real.glob("lib*.so*"):
            if library.name.startswith("libllama"):
                if not (libraries / "model.so").exists():
                    shutil.copy(library, libraries / "model.so")
                (libraries / library.name).symlink_to("model.so")
            else:
                (libraries / library.name).symlink_to(library)
    made = folder / "gpu.new"
    command = ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-fvisibility=hidden"]
    command += [f"-I{Path(package).parent / 'include'}", "-o", made, Path(__file__).with_suffix(".c")]
    command += [f"-L{libraries}", f"-Wl,-rpath,{libraries}", "-Wl,--no-as-needed", "-l:libllama.so", "-ldl"]
    subprocess.run(command, check=True)
    made.rename(folder / "model-on-gpu.so")
    (folder / "libllama.so").unlink(missing_ok=True)
    (folder / "libllama.so").symlink_to("model-on-gpu.so")
    return folder


def environment(gpus: nvml.SimulatedGpus, visible: bool = True) -> dict[str, str]:
    """What a process needs for its model to run on the first of ``gpus``, and for NVML to show them."""
    return gpus.environment | {"LLAMA_CPP_LIB_PATH": str(build(visible))}


def main() -> None:
    gpus = nvml.SimulatedGpus(Path(sys.argv[1]))
    os.environ |= environment(gpus)
    os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
