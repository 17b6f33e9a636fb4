"""How much faster a session replays than it was said, and what recording it costs.

    python -m bench.replay [--models 3.2M,27M] [--turns 100] [--reply 80] [--depth 2] [--quick]

A session of 100 turns is said one turn after another, conversations of `depth` turns each, and then made
again in three ways: one turn after another, side by side, and side by side with what was recorded read ahead,
as `niels-chat replay` does. Every way has a decoder of its own and must give the same bits. All on one
thread; a reply's prompt is read in every one of them, so short conversations gain more than long ones.

Recording is what happens to each token for a later replay's sake (the sum over its row of logits) and to each
reply (the hash over its sums): runs with and without it alternate. Storing a turn is timed separately,
next to its reply. There are no thresholds.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import anyio
import numpy as np

from bench import measure
from bench.models import SHAPES, random_model, tokenizer_for
from engine import Result
from niels_gpt.decoding import kernel_decoder
from niels_gpt.decoding import sequence as reply_module
from niels_gpt.decoding.kernel_decoder import KernelDecoder
from niels_gpt.decoding.request import GenerationRequest
from niels_gpt.kernels.packing import pack_model
from niels_gpt.model.config import ModelConfig
from niels_gpt.replay.regenerate import regenerate
from niels_gpt.sampling import Sampling
from sessions import NewGeneration, open_store

SYSTEM, MESSAGE = 24, 12  # tokens
SIDE_BY_SIDE = 32
STREAMS = (1, 32)


@dataclass(frozen=True, kw_only=True)
class Said:
    """A session: each turn's request, and its reply."""

    requests: list[GenerationRequest]
    replies: list[Result]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.replay", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", default="3.2M,27M", help="of bench.models, default %(default)s")
    parser.add_argument("--turns", type=int, default=100)
    parser.add_argument("--reply", type=int, default=80, help="tokens of a reply, default %(default)s")
    parser.add_argument("--depth", type=int, default=2, help="turns of a conversation, default %(default)s")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a little of everything, to try the command")
    options = parser.parse_args(argv)
    if options.quick:
        options.models, options.turns, options.reply, options.repetitions = "tiny", 4, 16, 1
    for name, value in measure.facts().items():
        print(f"- {name}: {value}")
    for name in options.models.split(","):
        cfg = SHAPES[name]
        print(f"\n## {name}, one thread, load {measure.load()}\n")
        print(_speed(cfg, options.turns, options.reply, options.depth, options.repetitions))
        print()
        print(_recording(cfg, options.reply, options.repetitions))
    print(f"\n{_storing(1 if options.quick else 20)}")
    return 0


def _speed(cfg: ModelConfig, turns: int, reply: int, depth: int, repetitions: int) -> str:
    new_decoder = _decoders(cfg)
    said = _talk(cfg, new_decoder(), turns=turns, reply=reply, depth=depth)
    drafted = [
        replace(request, draft_ids=result.token_ids)
        for request, result in zip(said.requests, said.replies, strict=True)
    ]
    ways: dict[str, Callable[[], list[Any]]] = {
        "one turn after another": lambda: _regenerate(new_decoder(), said.requests, 1),
        f"{SIDE_BY_SIDE} side by side": lambda: _regenerate(new_decoder(), said.requests, SIDE_BY_SIDE),
        "and read ahead": lambda: _regenerate(new_decoder(), drafted, SIDE_BY_SIDE),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    recorded = [result.receipt["logits_hash"] for result in said.replies]
    for _ in range(repetitions):
        for way, run in ways.items():
            began = time.perf_counter()
            results = run()
            seconds[way].append(time.perf_counter() - began)
            if [result.receipt["logits_hash"] for result in results] != recorded:
                raise SystemExit(f"{way}: other bits")
    medians = {way: statistics.median(times) for way, times in seconds.items()}
    baseline = next(iter(medians.values()))
    prompts = statistics.mean(len(request.prompt_ids) for request in said.requests)
    header = [f"{turns} turns, prompts of {prompts:.0f} tokens, replies of {reply}", "s", "times as fast"]
    return measure.table(
        header, [[way, f"{each:.2f}", f"{baseline / each:.1f}"] for way, each in medians.items()]
    )


def _talk(cfg: ModelConfig, decoder: KernelDecoder, *, turns: int, reply: int, depth: int) -> Said:
    chance = random.Random(1)
    said = Said(requests=[], replies=[])
    path: list[int] = []
    for turn in range(turns):
        if turn % depth == 0:
            path = [chance.randrange(cfg.V) for _ in range(SYSTEM)]
        path += [chance.randrange(cfg.V) for _ in range(MESSAGE)]
        request = _request(path, reply, seed=turn)
        [result] = _regenerate(decoder, [request], 1)
        said.requests.append(request)
        said.replies.append(result)
        path += result.token_ids
    return said


def _recording(cfg: ModelConfig, length: int, repetitions: int) -> str:
    new_decoder = _decoders(cfg)
    chance = random.Random(2)
    rows: list[list[str]] = []
    for streams in STREAMS:
        prompts = [[chance.randrange(cfg.V) for _ in range(8)] for _ in range(streams)]
        requests = [_request(prompt, length, seed=n) for n, prompt in enumerate(prompts)]
        ratios = []
        for _ in range(5 * repetitions):
            recorded = _seconds(new_decoder(), requests)
            with (
                mock.patch.object(kernel_decoder, "row_multipliers", return_value=np.zeros(0, np.uint64)),
                mock.patch.object(reply_module, "logits_hash", return_value=""),
            ):
                bare = _seconds(new_decoder(), requests)
            ratios.append(recorded / bare)
        rows.append([str(streams), f"{100 * (statistics.median(ratios) - 1):.1f}%"])
    return measure.table(["streams", "recording costs"], rows)


def _seconds(decoder: KernelDecoder, requests: Sequence[GenerationRequest]) -> float:
    """Decode without an engine: seconds from the first token of all to the last receipt."""
    live = [decoder.admit(request) for request in requests]
    while any(not sequence.reply.reply_tokens for sequence in live):
        decoder.advance(live)
    began = time.perf_counter()
    while live:
        steps = decoder.advance(live)
        for sequence, step in zip(live, steps, strict=True):
            if step.finish is not None:
                decoder.release(sequence)
        live = [sequence for sequence, step in zip(live, steps, strict=True) if step.finish is None]
    return time.perf_counter() - began


def _storing(turns: int) -> str:
    """Time the two transactions of a turn."""
    times = []
    with tempfile.TemporaryDirectory() as folder, open_store(Path(folder) / "sessions.db") as store:
        session = store.create_session("s", seed=0, system=None, settings={})
        checkpoint = store.remember_checkpoint(fingerprint="f", parts={}, config={}, step=0, path="p")
        asked = NewGeneration(
            checkpoint_id=checkpoint, seed=0, attempt=0, sampling={}, max_new_tokens=80, prompt_hash="p" * 64,
            trimmed_turns=0, environment={},
        )  # fmt: skip
        head = session.head_id
        for _ in range(turns):
            began = time.perf_counter()
            turn = store.begin_turn(session.id, content="hello", expected_head=head, generation=asked)
            head = store.finish_reply(
                turn.generation.id, content="hi " * 30, token_ids=range(80), status="complete",
                finish_reason="stop", receipt={}, timings={},
            ).id  # fmt: skip
            times.append(time.perf_counter() - began)
    milliseconds = 1000 * statistics.median(times)
    return f"Storing a turn durably, before its first token and after its last: {milliseconds:.1f} ms."


def _request(prompt: Sequence[int], reply: int, *, seed: int) -> GenerationRequest:
    return GenerationRequest(
        prompt_ids=tuple(prompt), max_new_tokens=reply, sampling=Sampling(), seed=seed,
        stop_ids=frozenset(), stop_sequences=(), banned_ids=frozenset(),
    )  # fmt: skip


def _decoders(cfg: ModelConfig) -> Callable[[], KernelDecoder]:
    packed, tokenizer = pack_model(random_model(cfg), "float32"), tokenizer_for(cfg)
    return lambda: KernelDecoder(packed, tokenizer, threads=1)


def _regenerate(decoder: KernelDecoder, requests: Sequence[GenerationRequest], batch: int) -> list[Any]:
    return anyio.run(lambda: regenerate(decoder, requests, batch=batch))


if __name__ == "__main__":
    sys.exit(main())
