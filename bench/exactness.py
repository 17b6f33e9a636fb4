"""Count logit rows that change with what must not matter: batch, cache, chunks, threads, restarts, drafts.

    python -m bench.exactness                      # about a million rows of the shipped checkpoint
    python -m bench.exactness --rows 20000
    python -m bench.exactness --weights int8
    python -m bench.exactness --model smollm2 --rows 100000
    python -m bench.exactness --only speculation   # a million rows of replies that draft for themselves
    python -m bench.exactness --decoder torch      # the control: the same harness over the torch decoder

Every reply is generated once alone, nothing kept from others; that run is the reference. Then the same
requests run under every combination of circumstances, and each row of logits that a token was drawn from is
compared with the reference by its hash. The exit code is 0 if no row differs (for the torch decoder: if most
do), and the seed of the requests is printed. With int8 weights the control computes with the numbers that
these stand for.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import torch

from niels_gpt.decoding.kernel_decoder import KernelDecoder
from niels_gpt.decoding.request import GenerationRequest
from niels_gpt.decoding.speculation import StepCosts
from niels_gpt.decoding.torch_decoder import TorchDecoder
from niels_gpt.decoding.torch_recurrent_decoder import TorchStateDecoder
from niels_gpt.kernels import WeightForm
from niels_gpt.kernels.packing import pack, pack_model
from niels_gpt.model.form import Form
from niels_gpt.model.gpt import GPT
from niels_gpt.model.int8 import quantised
from niels_gpt.model.loading import LoadedModel, load_model
from niels_gpt.paths import SHIPPED_CHECKPOINT
from niels_gpt.sampling import Sampling

if TYPE_CHECKING:
    from niels_gpt.model.registry import Model

BATCHES = (1, 2, 3, 8, 17, 64)
CHUNKS = (1, 7, 16, 64, 10_000)
THREADS = (1, 2, 4)
SAMPLINGS = (
    Sampling(),
    Sampling(temperature=0.0),
    Sampling(top_k=None, top_p=0.9),
    Sampling(temperature=1.3, top_k=None, repetition_penalty=1.2),
)


@dataclass(frozen=True)
class Circumstance:
    """What must not matter."""

    batch: int
    chunk: int
    threads: int
    cached: bool = True
    pooled: bool = False
    """Whether the decoder has answered all prompts before, so that it need not read them again."""
    restarted: bool = False
    speculated: bool = False
    """Whether replies are drafted from examples: themselves, wrong in places."""


class AnyDraftPays(StepCosts):
    """Makes every draft as long as it can be, however long its step takes."""

    def __init__(self) -> None:
        super().__init__()
        self.row = 0.0

    def record(self, rows: int, steps: int, seconds: float) -> None:
        """Learn nothing."""


def requests(loaded: LoadedModel, *, count: int, tokens: int, seed: int) -> list[GenerationRequest]:
    """Random prompts of 1 to 200 tokens; replies go on to their length, whatever they say."""
    chance = random.Random(seed)
    longest = min(200, loaded.cfg.context - tokens - 1)
    return [
        GenerationRequest(
            prompt_ids=tuple(chance.randrange(loaded.cfg.V) for _ in range(chance.randint(1, longest))),
            max_new_tokens=tokens,
            sampling=SAMPLINGS[i % len(SAMPLINGS)],
            seed=seed * 10_000 + i,
            stop_ids=frozenset(),
            stop_sequences=(),
            banned_ids=frozenset(),
        )
        for i in range(count)
    ]


def with_examples(decoder: Any, wanted: Sequence[GenerationRequest], *, seed: int) -> list[GenerationRequest]:
    """The requests with the replies to them as examples, in which about every twelfth token is wrong."""
    chance = random.Random(seed)
    found = []
    for request in wanted:
        sequence = decoder.admit(request)
        while decoder.advance([sequence])[0].finish is None:
            pass
        reply = sequence.reply.ids[len(request.prompt_ids) :]
        decoder.release(sequence)
        example = tuple(each if chance.random() > 1 / 12 else chance.choice(reply) for each in reply)
        found.append(replace(request, speculate=True, examples=(example,)))
    return found


def rows_of(decoder: Any, wanted: Sequence[GenerationRequest], *, batch: int, seed: int) -> list[list[str]]:
    """The hashes of every reply's rows; replies join and leave a running batch in a random order."""
    chance = random.Random(seed)
    order = list(range(len(wanted)))
    chance.shuffle(order)
    rows: list[list[str]] = [[] for _ in wanted]
    live: dict[int, Any] = {}
    while order or live:
        while order and len(live) < batch:
            i = order.pop()
            live[i] = decoder.admit(wanted[i])
            live[i].reply.watch = _collector(rows[i])
        for i, step in zip(list(live), decoder.advance(list(live.values())), strict=True):
            if step.error is not None:
                raise step.error
            if step.finish is not None:
                decoder.release(live.pop(i))
    return rows


def _collector(hashes: list[str]) -> Callable[[Any], None]:
    return lambda row: hashes.append(hashlib.blake2b(row.tobytes(), digest_size=8).hexdigest())


def circumstances() -> Iterator[Circumstance]:
    """Every batch with every chunk, every thread count in six ways, and new processes."""
    for batch in BATCHES:
        for chunk in CHUNKS:
            yield Circumstance(batch, chunk, 1)
    for threads in THREADS:
        yield Circumstance(1, 64, threads)
        yield Circumstance(5, 16, threads)
        yield Circumstance(16, 64, threads, pooled=True)
        yield Circumstance(3, 64, threads, cached=False)
        yield Circumstance(9, 7, threads, restarted=True)
        yield Circumstance(1, 64, threads, speculated=True)


def decoder_for(name: str, form: WeightForm, loaded: LoadedModel, place: Circumstance) -> Any:
    """A fresh decoder that has read nothing yet."""
    if name == "torch":
        model = loaded.model
        if isinstance(model, GPT):
            return TorchDecoder(model, loaded.tokenizer, prefill_chunk=place.chunk)
        return TorchStateDecoder(model, loaded.tokenizer, prefill_chunk=place.chunk)
    return KernelDecoder(
        packed_model(loaded, form),
        loaded.tokenizer, prefill_chunk=place.chunk, threads=place.threads,
        prefix_cache_bytes=2**30 if place.pooled else 0,
    )  # fmt: skip


_packed: dict[tuple[int, WeightForm], Any] = {}


def packed_model(loaded: LoadedModel, form: WeightForm) -> Any:
    """The packed weights, made once; of another project as its file has them, unless a form is given."""
    key = id(loaded), form
    if key not in _packed:
        foreign = isinstance(loaded.cfg, Form)
        _packed[key] = (
            pack(loaded.form, loaded.weights, "stored" if form == "float32" else form)
            if foreign
            else pack_model(cast("Model", loaded.model), form)
        )
    return _packed[key]


def dequantise(model: torch.nn.Module) -> None:
    """Give linear layers the numbers that their int8 weights stand for; a tied embedding stays as it is."""
    for layer in [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)]:
        integers, scales = quantised(layer.weight.detach().numpy())
        layer.weight = torch.nn.Parameter(torch.from_numpy(integers * scales[:, None]))


def measure(
    options: argparse.Namespace, loaded: LoadedModel, place: Circumstance, seed: int
) -> list[list[str]]:
    """All rows under one circumstance; without a cache, of the first few requests only: it is slow."""
    if place.restarted:
        return _in_another_process(options, place, seed)
    wanted = requests(loaded, count=options.replies, tokens=options.tokens, seed=options.seed)
    if not place.cached:
        wanted = [replace(request, use_cache=False) for request in wanted[: max(3, options.replies // 20)]]
    with closing(decoder_for(options.decoder, options.weights, loaded, place)) as decoder:
        if place.speculated:
            wanted = with_examples(decoder, wanted, seed=seed)
            decoder.step_costs = AnyDraftPays()
        if place.pooled:
            rows_of(decoder, wanted, batch=place.batch, seed=seed + 1)
        return rows_of(decoder, wanted, batch=place.batch, seed=seed)


def _in_another_process(options: argparse.Namespace, place: Circumstance, seed: int) -> list[list[str]]:
    command = [
        sys.executable, "-m", "bench.exactness", "--ckpt", str(options.ckpt), "--decoder", options.decoder,
        "--replies", str(options.replies), "--tokens", str(options.tokens), "--seed", str(options.seed),
        "--weights", options.weights, "--child", json.dumps([place.batch, place.chunk, place.threads, seed]),
    ]  # fmt: skip
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(prog="bench.exactness", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--ckpt", "--model", type=Path, default=SHIPPED_CHECKPOINT, help="or its name")
    parser.add_argument("--rows", type=int, default=1_000_000, help="stop after this many compared rows")
    parser.add_argument("--replies", type=int, default=200, help="requests of each circumstance")
    parser.add_argument("--tokens", type=int, default=100, help="tokens of each reply")
    parser.add_argument("--weights", choices=get_args(WeightForm), default="float32")
    parser.add_argument("--decoder", choices=("kernels", "torch"), default="kernels")
    parser.add_argument("--only", choices=("speculation",), help="only circumstances of this kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the campaign; 0 if the decoder is what it claims to be."""
    options = parse(argv)
    loaded = load_model(options.ckpt)
    if options.decoder == "torch" and options.weights == "int8":
        dequantise(loaded.model)
    if options.child:
        batch, chunk, threads, seed = json.loads(options.child)
        print(json.dumps(measure(options, loaded, Circumstance(batch, chunk, threads), seed)))
        return 0
    began = time.monotonic()
    print(f"{options.decoder} over {options.ckpt.name}, {options.weights} weights, seed {options.seed}")
    compared = different = 0
    for turn in itertools.count():
        places = [each for each in circumstances() if each.speculated or options.only is None]
        rows, wrong = compare(options, loaded, places, turn=turn, most=options.rows - compared)
        compared, different = compared + rows, different + wrong
        if compared >= options.rows:
            break
        options.seed += options.only is not None  # other requests: a batch of one has no other order
    seconds = time.monotonic() - began
    print(f"{compared} rows compared in {seconds:.0f} s: {different} differ ({different / compared:.1%})")
    return 0 if (different > compared / 2 if options.decoder == "torch" else different == 0) else 1


def compare(
    options: argparse.Namespace,
    loaded: LoadedModel,
    places: Iterable[Circumstance],
    *,
    turn: int = 0,
    most: int = 10**9,
) -> tuple[int, int]:
    """How many rows were compared, and how many of them differ; after `most`, no other place is tried.

    Each turn has batches of its own.
    """
    compared = different = 0
    reference = measure(options, loaded, Circumstance(1, 64, 1), 0)
    for seed, place in enumerate(places, 1 + 1000 * turn):
        found = measure(options, loaded, place, seed)
        pairs = [pair for a, b in zip(found, reference, strict=False) for pair in zip(a, b, strict=True)]
        wrong = sum(a != b for a, b in pairs)
        compared, different = compared + len(pairs), different + wrong
        print(f"  {place}: {len(pairs)} rows, {wrong} differ", flush=True)
        if compared >= most:
            break
    return compared, different


if __name__ == "__main__":
    sys.exit(main())
