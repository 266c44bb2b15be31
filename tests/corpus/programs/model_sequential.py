"""A model in a loop with two servers between inferences: two culprits, each with its share."""

import urllib.request

import truth
from llama_cpp import Llama

from whyidle_agent.model_file import generated_model

EXPECT = {
    "findings": [
        ("blocking_network_call", "search_web", "http"),
        ("blocking_network_call", "search_papers", "other"),
    ],
    "also": ["sequential_calls"],
    "modules": ["llama_cpp"],
}

model = Llama(str(generated_model()), n_ctx=512, n_threads=1, n_threads_batch=1, seed=1, verbose=False)


def think():
    model.reset()
    for number, _ in enumerate(model.generate([1, 2, 3], temp=1.0)):
        if number == 30:
            break


def search_web():
    with truth.waiting("network"):
        urllib.request.urlopen(f"{truth.HTTP}/hold/300").read()


def search_papers():
    with truth.waiting("network"):
        urllib.request.urlopen(f"{truth.OTHER}/hold/200").read()


for _ in range(4):
    think()
    search_web()
    search_papers()
