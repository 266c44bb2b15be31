"""Decoy: the same on uvloop, by aiohttp and over TLS."""

import asyncio

import aiohttp
import truth
import uvloop
from llama_cpp import Llama

from whyidle_agent.model_file import generated_model

EXPECT = {
    "findings": [],
    "loops": [
        ("search_web", "socket", "http"),
        ("search_papers", "socket", "tls"),
        ("spin", "timer", None),
    ],
    "idle": [("search_web", "http"), ("search_papers", "tls")],
    "modules": ["llama_cpp", "aiohttp", "uvloop"],
}

model = Llama(str(generated_model()), n_ctx=512, n_threads=1, n_threads_batch=1, seed=1, verbose=False)


def think():
    model.reset()
    for number, _ in enumerate(model.generate([1, 2, 3], temp=1.0)):
        if number == 30:
            break


async def search_web(client):
    async with client.get(f"{truth.HTTP}/hold/400") as answer:
        await answer.read()


async def search_papers(client):
    address = f"https://127.0.0.1:{truth.PORTS['tls']}/hold/700"
    async with client.get(address, ssl=False) as answer:
        await answer.read()


async def spin():
    while True:
        await asyncio.sleep(0.15)


async def main():
    spinning = asyncio.create_task(spin())
    async with aiohttp.ClientSession() as client:
        for _ in range(3):
            think()
            with truth.waiting("event_loop|network"):
                await asyncio.gather(search_web(client), search_papers(client), search_web(client))
    think()
    spinning.cancel()


uvloop.run(main())
