"""Measure speculative decoding against plain decoding: the same replies, in turns, by processor time.

    python -m bench.speculation [--ckpt smollm2] [--pairs 5] [--quick]

Turns that ask for a text of their conversation again are answered, retried with the first reply as an
example, and compared with questions that have nothing to repeat. At a temperature of 0.9 a small model often
leaves the text half-way. So a reply counts as a quote (a retry as a near-repeat) where at least 80% of its
tokens are in runs of eight that occur in the text that drafts are looked up in; the others are counted
apart. Every reply is made plainly and with speculation, one after the other, from the same seed, and both
must agree in every bit of every row of logits. Prompts are not timed. "Read ahead" counts drafted tokens,
right or wrong.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench import measure
from niels_gpt.decoding.backend import Backend, open_backend
from niels_gpt.decoding.kernel_decoder import KernelDecoder
from niels_gpt.model.catalogue import resolve
from niels_gpt.model.loading import load_model
from niels_gpt.paths import SHIPPED_CHECKPOINT
from niels_gpt.sampling import Sampling

if TYPE_CHECKING:
    from niels_gpt.decoding.request import GenerationRequest

HARBOUR = (
    "The harbour office opens at seven. Boats longer than twelve metres report to the lock keeper before "
    "they enter, pay the fee of 14 euros, and moor at the eastern pier. Dogs stay on board. "
    "Fuel is sold until noon on weekdays, and the crane may be used by members with a valid "
    "key. Please leave the slipway free."
)
MEDIAN = """def median(values):
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2

def mean(values):
    return sum(values) / len(values)"""
TART = (
    "Ingredients: 300 g of flour, 150 g of cold butter, one egg, a pinch of salt, 100 g of sugar. Rub the "
    "butter into the flour, add the sugar and the egg, and press the dough into a tin. Chill it for an hour. "
    "Bake at 180 degrees for 25 minutes, and let the base cool before it is filled."
)
TEXTS = (HARBOUR, MEDIAN, TART)
REPEAT = "Repeat this text: {}"
OTHERS = (
    "Tell me a story about a lighthouse.",
    "Why is the sky blue?",
    "Write a poem about winter rain.",
    "Give me advice on learning to swim.",
    "What makes a good teacher?",
)
QUOTES, REPEATS, PARTLY, OTHER = (
    "turns that quote",
    "retries with a near-repeat",
    "turns and retries that leave the text",
    "other turns",
)
RUN, QUOTED = 8, 0.8  # tokens of a run; share of a reply that makes it a quote


@dataclass
class Outcome:
    """One reply: how it came out, and the processor time of its decoding."""

    ids: tuple[int, ...]
    hash: object
    seconds: float
    drafted: int
    right: int


@dataclass
class Pairs:
    """Replies of one kind, made in both ways."""

    plain: list[Outcome] = field(default_factory=list)
    drafted: list[Outcome] = field(default_factory=list)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if any reply differs."""
    parser = argparse.ArgumentParser(prog="bench.speculation", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--ckpt", type=Path, default=SHIPPED_CHECKPOINT, help="a path or the name of a model")
    parser.add_argument("--pairs", type=int, default=6, help="replies of a kind, default %(default)s")
    parser.add_argument("--tokens", type=int, default=160, help="most tokens of a reply")
    parser.add_argument("--temperature", type=float, default=0.9)
    parser.add_argument("--quick", action="store_true", help="one short reply of each kind")
    options = parser.parse_args(argv)
    if options.quick:
        options.pairs, options.tokens = 1, 24
    for name, value in measure.facts().items():
        print(f"- {name}: {value}")
    backend = open_backend(load_model(resolve(options.ckpt)), threads=1)
    try:
        found = pairs(backend, options.pairs, options.tokens, Sampling(options.temperature))
    finally:
        backend.close()
    differ = sum(
        (one.ids, one.hash) != (other.ids, other.hash)
        for kind in found.values()
        for one, other in zip(kind.plain, kind.drafted, strict=True)
    )
    print(f"\n{options.ckpt}, temperature {options.temperature}, one thread, load {measure.load()}\n")
    print(table(found))
    print(f"\n{differ} replies differ")
    return 1 if differ else 0


def pairs(backend: Backend, count: int, tokens: int, sampling: Sampling) -> dict[str, Pairs]:
    """Answer `count` turns of each kind in both ways."""
    found = {kind: Pairs() for kind in (QUOTES, REPEATS, PARTLY, OTHER)}
    for number, (quoting, other) in enumerate(_turns(count)):

        def both(
            kind: str, turns: Sequence[str], seed: int, examples: tuple[tuple[int, ...], ...] = ()
        ) -> Outcome:
            roles = itertools.cycle(("user", "assistant"))
            messages = [{"role": role, "content": text} for role, text in zip(roles, turns, strict=False)]
            prompt = backend.template.prompt_ids(messages)
            request = backend.request(
                prompt_ids=tuple(prompt), sampling=sampling, max_new_tokens=tokens, seed=seed
            )
            ways = [
                replace(request, speculate=False),
                replace(request, speculate=True, examples=examples),
            ]
            order = (0, 1) if seed % 2 else (1, 0)
            made = {way: reply(backend, ways[way]) for way in order}
            if kind != OTHER and quoted(made[0].ids, [prompt, *examples]) < QUOTED:
                kind = PARTLY
            found[kind].plain.append(made[0])
            found[kind].drafted.append(made[1])
            return made[0]

        first = both(QUOTES, quoting, 2 * number + 1)
        both(REPEATS, quoting, 2 * number + 2, (first.ids,))
        both(OTHER, [other], number)
    return found


def quoted(ids: Sequence[int], texts: Sequence[Sequence[int]]) -> float:
    """Return the share of tokens that are in a run of RUN tokens of one of the texts."""
    runs = {tuple(text[at : at + RUN]) for text in texts for at in range(len(text) - RUN + 1)}
    covered = {
        place
        for at in range(len(ids) - RUN + 1)
        if tuple(ids[at : at + RUN]) in runs
        for place in range(at, at + RUN)
    }
    return len(covered) / len(ids)


def _turns(count: int) -> Iterator[tuple[list[str], str]]:
    """Yield conversations whose last message asks for a text that was repeated before, and questions."""
    for number in range(count):
        text = TEXTS[number % len(TEXTS)]
        yield [REPEAT.format(text), text, REPEAT.format(text)], OTHERS[number % len(OTHERS)]


def reply(backend: Backend, request: GenerationRequest) -> Outcome:
    """Answer one request; the prompt and the first token are not timed."""
    decoder = backend.decoder
    if not isinstance(decoder, KernelDecoder):
        raise SystemExit(f"{type(decoder).__name__} is not the decoder of the kernels on a CPU")
    sequence = decoder.admit(request)
    counted, right = [], 0
    step = decoder.advance([sequence])[0]
    while not step.tokens:
        step = decoder.advance([sequence])[0]
    ids = [token_id for token_id, _ in step.tokens]
    restore = _count_drafts(sequence, counted)
    began = time.process_time()
    while step.finish is None:
        before = len(counted)
        step = decoder.advance([sequence])[0]
        if step.error is not None:
            raise step.error
        ids += [token_id for token_id, _ in step.tokens]
        if len(counted) > before and counted[-1]:
            right += len(step.tokens) - 1
    seconds = time.process_time() - began
    restore()
    receipt = decoder.release(sequence)
    return Outcome(tuple(ids), receipt["logits_hash"], seconds / max(1, len(ids) - 1), sum(counted), right)


def _count_drafts(sequence: object, counted: list[int]) -> Callable[[], None]:
    """Append the length of each draft of a sequence to `counted`; the result ends that."""
    speculation = getattr(sequence, "speculation", None)
    if speculation is None:
        return lambda: None
    draft = speculation.draft

    def counting(ids: Sequence[int], most: int) -> list[int]:
        found = draft(ids, most)
        counted.append(len(found))
        return found

    speculation.draft = counting
    return lambda: speculation.__dict__.pop("draft", None)


def table(found: dict[str, Pairs]) -> str:
    """Return the speeds of each kind."""
    rows = []
    for kind, both in found.items():
        if not both.plain:
            continue
        ratios = [one.seconds / other.seconds for one, other in zip(both.plain, both.drafted, strict=True)]
        tokens = sum(len(each.ids) for each in both.drafted)
        plain = statistics.median(each.seconds for each in both.plain)
        rows.append(
            [
                f"{kind} ({len(ratios)})",
                f"{1 / plain:.0f}",
                f"{statistics.median(ratios):.2f}",
                f"{min(ratios):.2f} to {max(ratios):.2f}",
                f"{100 * sum(each.right for each in both.drafted) / tokens:.0f}%",
                f"{100 * sum(each.drafted for each in both.drafted) / tokens:.0f}%",
            ]
        )
    header = ["replies", "plain tokens/s", "times as fast", "from, to", "drafted and right", "read ahead"]
    return measure.table(header, rows)


if __name__ == "__main__":
    sys.exit(main())
