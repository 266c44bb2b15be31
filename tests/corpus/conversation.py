"""A conversation with a real model, for programs about how its context fills."""

import time

import truth
from llama_cpp import Llama

from whyidle_agent.model_file import generated_model

TURNS, TOKENS, ANSWER = 12, 40, 20


def talk(keep: int | None) -> None:
    """Take turns, and think after each of all turns so far; ``keep``: of so many tokens at the end only."""
    model = Llama(str(generated_model()), n_ctx=1024, n_threads=1, n_threads_batch=1, seed=1, verbose=False)
    history = [1, 2, 3]
    for turn in range(TURNS):
        history.extend([10 + turn] * TOKENS)
        if keep is not None:
            del history[3:-keep]
        for number, token in enumerate(model.generate(history, temp=0.0)):
            history.append(token)
            if number == ANSWER:
                break
        with truth.waiting("sleep"):
            time.sleep(0.2)
