"""The reference agent: an AutoGPT-like loop on llama-cpp-python."""
