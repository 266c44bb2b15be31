"""Decoy: an asyncio agent that gathers the searches of a step; it is known whom the model waits for."""

import asyncio

import httpx
import truth
from llama_cpp import Llama

from whyidle_agent.model_file import generated_model

EXPECT = {
    "findings": [],
    "loops": [
        ("search_web", "socket", "http"),
        ("search_papers", "socket", "other"),
        ("spin", "timer", None),
    ],
    "idle": [("search_web", "http"), ("search_papers", "other")],
    "modules": ["llama_cpp", "httpx"],
}

model = Llama(str(generated_model()), n_ctx=512, n_threads=1, n_threads_batch=1, seed=1, verbose=False)


def think():
    model.reset()
    for number, _ in enumerate(model.generate([1, 2, 3], temp=1.0)):
        if number == 30:
            break


async def search_web(client):
    await client.get(f"{truth.HTTP}/hold/400")


async def search_papers(client):
    await client.get(f"{truth.OTHER}/hold/700")


async def spin():
    while True:
        await asyncio.sleep(0.15)


async def main():
    spinning = asyncio.create_task(spin())
    async with httpx.AsyncClient() as client:
        for _ in range(3):
            think()
            with truth.waiting("event_loop|network"):
                await asyncio.gather(search_web(client), search_papers(client), search_web(client))
    think()
    spinning.cancel()


asyncio.run(main())
