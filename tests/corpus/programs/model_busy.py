"""Decoy: a model that is never idle for long."""

import time

import truth
from llama_cpp import Llama

from whyidle_agent.model_file import generated_model

EXPECT = {"findings": [], "modules": ["llama_cpp"]}

model = Llama(str(generated_model()), n_ctx=512, n_threads=1, n_threads_batch=1, seed=1, verbose=False)
end = time.monotonic() + 2
while time.monotonic() < end:
    model.reset()
    for number, _ in enumerate(model.generate([1, 2, 3], temp=1.0)):
        if number == 100:
            break
truth.own_cpu()
