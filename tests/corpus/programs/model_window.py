"""Decoy: a conversation that keeps its last turns only; the context is used, and does not fill."""

from conversation import talk

EXPECT = {"findings": [], "modules": ["llama_cpp"]}

talk(keep=200)
