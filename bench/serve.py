"""Measure the server's speed as a share of the engine's, its first-token latency and its memory.

    python -m bench.serve --streams 1,8,32,64

The engine runs in this process and the server in one of its own; both make the same replies, in turns, so
that what disturbs the machine disturbs both. The client counts bytes and parses nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import quantiles
from typing import Any

from engine import Engine
from niels_gpt.conversation.opening import open_model
from niels_gpt.conversation.options import ChatOptions
from niels_gpt.conversation.planning import request_for
from niels_gpt.conversation.settings import Settings
from niels_gpt.rng import reply_seed
from tests.server.server_process import ServerProcess

TEXT = "who is niels?"
TOKEN = b'"delta":{"content":'
IDLE, STALLED = 1000, 100


def body_of(seed: int, tokens: int, *, store: bool) -> bytes:
    """Return a request for exactly so many tokens: the end of a turn is ruled out."""
    return json.dumps(
        {
            "messages": [{"role": "user", "content": TEXT}],
            "seed": seed,
            "temperature": 0.9,
            "logit_bias": {"3": -100},
            "max_tokens": tokens,
            "stream": True,
            "store": store,
        }
    ).encode()


async def engine_rate(model: Any, streams: int, tokens: int) -> float:
    """Return the engine's tokens/s over so many replies side by side."""
    settings = Settings(max_new_tokens=tokens, logit_bias=((3, -100.0),))
    prompt = tuple(model.template.prompt_ids([{"role": "user", "content": TEXT}]))
    async with Engine(model.decoder, max_batch=64) as engine:
        began = time.perf_counter()
        jobs = [
            engine.submit(request_for(model, prompt, settings, seed=reply_seed(seed, 1, 0)))
            for seed in range(streams)
        ]
        made = sum([len((await job.result()).token_ids) for job in jobs])
        return made / (time.perf_counter() - began)


async def one_stream(port: int, body: bytes) -> tuple[int, float]:
    """Return how many tokens a stream had, and the seconds until its first."""
    began, first, tokens, rest = time.perf_counter(), 0.0, 0, b""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(_request("POST", "/v1/chat/completions", body))
    while piece := await reader.read(1 << 16):
        rest += piece
        tokens += rest.count(TOKEN)
        if tokens and not first:
            first = time.perf_counter() - began
        rest = rest[rest.rfind(b"\n") + 1 :]
    writer.close()
    return tokens, first


def _request(method: str, path: str, body: bytes = b"") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def lag(port: int, ended: asyncio.Event) -> list[float]:
    """Return how long the event loop lets a request wait that needs nothing but it."""
    waits: list[float] = []
    while not ended.is_set():
        began = time.perf_counter()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(_request("GET", "/health"))
        await reader.read()
        writer.close()
        waits.append(time.perf_counter() - began)
        await asyncio.sleep(0.01)
    return waits


async def served_rate(
    port: int, streams: int, tokens: int, *, store: bool
) -> tuple[float, list[float], list[float]]:
    """Return tokens/s, the seconds to each first token, and the waits of a request meanwhile."""
    ended = asyncio.Event()
    watching = asyncio.create_task(lag(port, ended))
    began = time.perf_counter()
    found = await asyncio.gather(
        *(one_stream(port, body_of(seed, tokens, store=store)) for seed in range(streams))
    )
    seconds = time.perf_counter() - began
    ended.set()
    return sum(made for made, _ in found) / seconds, [first for _, first in found], await watching


def resident(process: int) -> float:
    """Return a process's memory in MiB."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def connections(server: ServerProcess) -> tuple[float, float]:
    """Return the MiB that idle connections and clients that read nothing add."""
    before = resident(server.process.pid)
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(IDLE)]
    server.json("GET", "/health")
    with_idle = resident(server.process.pid)
    for each in idle:
        each.close()
    server.json("GET", "/health")
    start = resident(server.process.pid)
    stalled = []
    for seed in range(STALLED):
        each = socket.socket()
        each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        each.connect(("127.0.0.1", server.port))
        each.sendall(_request("POST", "/v1/chat/completions", body_of(seed, 400, store=False)))
        stalled.append(each)
    while "niels_running_jobs 0.0" not in (text := _metrics(server)) or "niels_queue_jobs 0.0" not in text:
        time.sleep(0.2)
    with_stalled = resident(server.process.pid)
    for each in stalled:
        each.close()
    return with_idle - before, with_stalled - start


def _metrics(server: ServerProcess) -> str:
    with server.request("GET", "/metrics") as answer:
        return answer.read().decode()


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.serve", description="See the module.")
    parser.add_argument("--streams", default="1,8,32,64")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args(argv)
    model = open_model(ChatOptions())
    with tempfile.TemporaryDirectory() as folder, ServerProcess(Path(folder)) as server:
        print("| streams | engine tokens/s | HTTP | share | stored | first token p50, p99 | /health p99 |")
        print("|---|---|---|---|---|---|---|")
        for streams in map(int, options.streams.split(",")):
            direct, served, kept, firsts, waits = [], [], [], [], []
            for _ in range(options.repetitions):
                direct.append(asyncio.run(engine_rate(model, streams, options.tokens)))
                rate, first, wait = asyncio.run(
                    served_rate(server.port, streams, options.tokens, store=False)
                )
                served.append(rate)
                firsts += first
                waits += wait
                kept.append(asyncio.run(served_rate(server.port, streams, options.tokens, store=True))[0])
            p50, p99 = (quantiles([*firsts, firsts[-1]], n=100)[n] * 1000 for n in (49, 98))
            slow = quantiles([*waits, waits[-1]], n=100)[98] * 1000
            best, over, stored = max(direct), max(served), max(kept)
            print(
                f"| {streams} | {best:,.0f} | {over:,.0f} | {over / best:.2f} | {stored / best:.2f} | "
                f"{p50:.0f}, {p99:.0f} ms | {slow:.0f} ms |",
                flush=True,
            )
        idle, stalled = connections(server)
        print(f"\n{IDLE} idle connections: {idle:.1f} MiB; {STALLED} that read nothing: {stalled:.1f} MiB")
    model.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
