"""Seeded requests alone, then in a crowd: the same text and log-probabilities, bit for bit.

    python -m bench.serve_determinism --requests 1000 --clients 64

The requests are sent one after the other, then in random order by many clients with unseeded requests between
them, then a part of them to servers without caches of keys, values and prefixes, with two threads, and to
`niels-chat -p` with the same seed. The control does the same on the torch path, whose last bits depend on
what else is in the batch: it must differ.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine import Engine
from niels_gpt.conversation.opening import open_model
from niels_gpt.conversation.options import ChatOptions
from niels_gpt.conversation.planning import request_for
from niels_gpt.conversation.settings import Settings
from niels_gpt.decoding.backend import torch_decoder
from niels_gpt.model.loading import load_model as load_checkpoint
from niels_gpt.rng import reply_seed
from niels_gpt.server.logprobs import Watcher
from tests.server.server_process import Client, ServerProcess

SUBJECTS = (
    "niels",
    "attention",
    "a seed",
    "the kv cache",
    "this website",
    "sampling",
    "the tokenizer",
    "you",
)
QUESTIONS = ("What is {}?", "Tell me about {}.", "Why does {} matter?", "hi, I like {}")
Answer = tuple[str, tuple[float, ...]]


def body_of(number: int) -> dict[str, Any]:
    """Return the request with this number."""
    chance = random.Random(number)
    text = chance.choice(QUESTIONS).format(chance.choice(SUBJECTS))
    return {
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": text}],
        "seed": number,
        "temperature": 0.9,
        "max_tokens": 8 + number % 40,
        "logprobs": True,
    }


def ask(server: Client, number: int) -> Answer:
    """Return the text of a reply and the log-probability of each token."""
    choice = server.json("POST", "/v1/chat/completions", body_of(number))["choices"][0]
    return choice["message"]["content"], tuple(each["logprob"] for each in choice["logprobs"]["content"])


def crowd(server: Client, numbers: Sequence[int], clients: int) -> dict[int, Answer]:
    """Return the answers to requests that many clients send at once, with unseeded load between them."""
    ended = threading.Event()

    def load() -> None:
        while not ended.is_set():
            unseeded = {"messages": [{"role": "user", "content": "talk"}], "temperature": 2, "store": False}
            server.json("POST", "/v1/chat/completions", unseeded)

    loaders = [threading.Thread(target=load) for _ in range(max(1, clients // 16))]
    for loader in loaders:
        loader.start()
    try:
        with ThreadPoolExecutor(clients) as pool:
            return dict(zip(numbers, pool.map(lambda number: ask(server, number), numbers), strict=True))
    finally:
        ended.set()
        for loader in loaders:
            loader.join()


def report(what: str, alone: dict[int, Answer], found: dict[int, Answer]) -> int:
    """Print how many answers differ, and return it."""
    texts = sum(found[number][0] != alone[number][0] for number in found)
    numbers = sum(found[number][1] != alone[number][1] for number in found)
    print(f"| {what} | {len(found)} | {texts} | {numbers} |", flush=True)
    return texts + numbers


def terminal(numbers: Sequence[int]) -> dict[int, str]:
    """Return what `niels-chat -p` says under the same seeds."""
    found: dict[int, str] = {}
    for number in numbers:
        body = body_of(number)
        flags = ["--no-session", "--quiet", "--seed", str(number), "--temperature", "0.9"]
        flags += ["--max-new-tokens", str(body["max_tokens"]), "--system", "be brief"]
        command = [sys.executable, "-m", "niels_gpt.chat_cli", *flags, "-p", body["messages"][1]["content"]]
        found[number] = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return found


def torch_control(numbers: Sequence[int]) -> tuple[dict[int, Answer], dict[int, Answer]]:
    """Return the answers of the torch path, each alone and all together."""
    model = open_model(ChatOptions())
    loaded = load_checkpoint(ChatOptions().checkpoint)
    decoder: Any = torch_decoder(loaded.model, loaded.tokenizer)

    def request(number: int) -> tuple[Any, Watcher]:
        body, watcher = body_of(number), Watcher(0)
        settings = Settings(temperature=0.9, max_new_tokens=body["max_tokens"])
        prompt_ids = tuple(model.template.prompt_ids(body["messages"]))
        made = request_for(model, prompt_ids, settings, seed=reply_seed(number, 2, 0))
        return replace(made, watch=watcher), watcher

    async def answers(groups: Sequence[Sequence[int]]) -> dict[int, Answer]:
        found: dict[int, Answer] = {}
        async with Engine(decoder, max_batch=64) as engine:
            for group in groups:
                made = {number: request(number) for number in group}
                jobs = {number: engine.submit(each[0]) for number, each in made.items()}
                for number, job in jobs.items():
                    result = await job.result()
                    found[number] = result.text, tuple(each.logprob for each in made[number][1].tokens)
        return found

    alone = asyncio.run(answers([[number] for number in numbers]))
    together = asyncio.run(answers([numbers]))
    model.close()
    return alone, together


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table; 0 if nothing differs but the control."""
    parser = argparse.ArgumentParser(prog="python -m bench.serve_determinism", description="See the module.")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--others", type=int, default=100, help="requests for each other kind of server")
    parser.add_argument("--terminal", type=int, default=5, help="requests for niels-chat -p")
    options = parser.parse_args(argv)
    numbers = list(range(options.requests))
    mixed = random.Random(0).sample(numbers, len(numbers))
    few = mixed[: options.others]
    print("| seeded requests | compared | other text | other log-probabilities |\n|---|---|---|---|")
    differ = 0

    def served(*flags: str, work: Callable[[Client], dict[int, Answer]]) -> dict[int, Answer]:
        with tempfile.TemporaryDirectory() as folder, ServerProcess(Path(folder), *flags) as server:
            return work(server)

    def both(server: Client) -> dict[int, Answer]:
        nonlocal differ
        found = {number: ask(server, number) for number in numbers}
        differ += report(f"{options.clients} clients", found, crowd(server, mixed, options.clients))
        return found

    alone = served(work=both)
    for what, flags in (
        ("no cache of keys and values, nor of prefixes", ["--no-kv-cache"]),
        ("two threads", ["--threads", "2"]),
        ("batches of at most 3", ["--max-batch", "3"]),
    ):
        found = served(*flags, work=lambda server: crowd(server, few, options.clients))
        differ += report(what, alone, found)
    said = terminal(few[: options.terminal])
    other = sum(text != alone[number][0].strip() for number, text in said.items())
    print(f"| `niels-chat -p` | {len(said)} | {other} | |", flush=True)
    control = report("control: torch, alone and together", *torch_control(few))
    return 0 if differ + other == 0 and control else 1


if __name__ == "__main__":
    sys.exit(main())
