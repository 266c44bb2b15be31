"""A context's KV cache is as large as llama.cpp itself says."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from harness_cli import load, whyidle

pytestmark = [pytest.mark.bpf, pytest.mark.model]

CODE = """
import ctypes, sys, llama_cpp
from llama_cpp import Llama
from whyidle_agent.model_file import generated_model
keep = llama_cpp.llama_log_callback(lambda level, text, data: print(text.decode(), end="", flush=True))
llama_cpp.llama_log_set(keep, ctypes.c_void_p(0))
model = Llama(str(generated_model()), n_ctx=int(sys.argv[1]), n_threads=1, n_threads_batch=1, verbose=True,
    flash_attn=True, type_k=int(sys.argv[2]), type_v=int(sys.argv[3]))
llama_cpp.llama_log_set(keep, ctypes.c_void_p(0))
for number, _ in enumerate(model.generate([1, 2, 3], temp=0.0)):
    if number == 5:
        break
"""


@pytest.mark.parametrize("settings", [(512, 1, 1), (1000, 8, 8), (2048, 8, 1)])
def test_the_cache_is_as_large_as_the_library_says(settings: tuple[int, int, int], tmp_path: Path) -> None:
    """For plain, quantised and mixed caches, and a size that is padded."""
    told = tmp_path / "report.json"
    code = tmp_path / "model.py"
    code.write_text(CODE)
    done = whyidle("run", "--json", told, "--", sys.executable, code, *map(str, settings))
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    sizes = re.findall(r"KV buffer size\s*=\s*([0-9.]+) MiB", said)
    assert sizes, said[-2000:]
    (engine,) = load(told)["engines"]
    assert engine["kv_cache_bytes"] == pytest.approx(float(sizes[-1]) * 2**20, rel=0.01)
    assert engine["context"]["size"] >= settings[0]
    assert engine["memory_reason"] == ""
