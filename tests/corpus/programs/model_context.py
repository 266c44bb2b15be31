"""A conversation that keeps every turn: the context fills from inference to inference."""

from conversation import talk

EXPECT = {
    "findings": [("kv_cache_growth", None, None), ("memory_limit_near", None, None)],
    "modules": ["llama_cpp"],
}

talk(keep=None)
