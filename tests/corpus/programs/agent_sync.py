"""The reference agent with its model: it searches while the model has nothing to do."""

import os
import sys
from pathlib import Path

import truth

from whyidle_agent.main import main

EXPECT = {
    "findings": [("blocking_network_call", "search_web", "searx")],
    # Its history does grow towards the end of the context, which four loops may or may not be enough to tell.
    "also": ["sequential_calls", "kv_cache_growth", "memory_limit_near"],
    "modules": ["llama_cpp"],
}

folder = str(Path(os.environ["WHYIDLE_FOLDER"], "agent"))
url = f"http://127.0.0.1:{truth.PORTS['searx']}"
status = main(["run", "--search-url", url, "--loops", "4", "--seed", "1", "--workdir", folder])
assert status == 0, status
sys.stdout.flush()
