"""Decoy: a conversation that keeps its last turns only; the context is used, and does not fill."""

import time

import truth
from llama_cpp import Llama

from whyidle_agent.model_file import generated_model

EXPECT = {"findings": [], "modules": ["llama_cpp"]}

model = Llama(str(generated_model()), n_ctx=1024, n_threads=1, n_threads_batch=1, seed=1, verbose=False)
history = [1, 2, 3]


def think():
    for number, token in enumerate(model.generate(history, temp=0.0)):
        history.append(token)
        if number == 20:
            break


for turn in range(12):
    history.extend([10 + turn] * 40)
    del history[3:-200]
    think()
    with truth.waiting("sleep"):
        time.sleep(0.2)
