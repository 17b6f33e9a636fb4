"""Score a model on questions with four answers each, beside llama.cpp on the same file.

    python -m bench.tasks --model smollm2

The method is that of the evaluation harnesses' tasks of this kind (ARC). A prompt is "Question: ..." and,
in a line of its own, "Answer:"; each answer behind a space is a continuation. The model's choice is the one
with the largest sum of log-probabilities (acc), or with the largest sum for each byte of the answer
(acc_norm). The questions are `bench/tasks.txt`: question, right answer, three wrong ones. The comparison
needs `llama-cpp-python`. Exit status 1 if the two are more than a point apart in either figure.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.measure import table
from bench.quality import log_shares
from niels_gpt.kernels.gpt_packing import pack_form
from niels_gpt.model.loading import LoadedModel, load_model

TASKS = Path(__file__).with_name("tasks.txt")
MOST_APART = 0.01
LogShares = Callable[[Sequence[int]], np.ndarray]  # (t, V) log-probabilities after each of t tokens


@dataclass(frozen=True, kw_only=True)
class Item:
    """A question; the first answer is the right one."""

    question: str
    answers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What a model prefers, by item: the number of its answer."""

    plain: tuple[int, ...]
    normalised: tuple[int, ...]

    def accuracies(self) -> tuple[float, float]:
        """Return acc and acc_norm."""
        plain, normalised = (
            sum(choice == 0 for choice in each) / len(each) for each in (self.plain, self.normalised)
        )
        return plain, normalised


def read_items(path: Path = TASKS) -> list[Item]:
    """Read the questions, one a line, with `|` between question and answers."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [
        Item(question=first, answers=tuple(rest)) for first, *rest in (line.split(" | ") for line in lines)
    ]


def choices(items: Sequence[Item], encode: Callable[[str], Sequence[int]], read: LogShares) -> Choices:
    """Let a model choose."""
    plain, normalised = [], []
    for item in items:
        prompt = f"Question: {item.question}\nAnswer:"
        sums = np.array([_log_likelihood(prompt, f" {answer}", encode, read) for answer in item.answers])
        lengths = np.array([len(f" {answer}".encode()) for answer in item.answers])
        plain.append(int(sums.argmax()))
        normalised.append(int((sums / lengths).argmax()))
    return Choices(plain=tuple(plain), normalised=tuple(normalised))


def _log_likelihood(
    prompt: str, continuation: str, encode: Callable[[str], Sequence[int]], read: LogShares
) -> float:
    """Return the sum of log-probabilities of the tokens that the continuation adds to the prompt's."""
    ids, first = list(encode(prompt + continuation)), len(encode(prompt))
    rows = read(ids[:-1])
    return float(sum(rows[at - 1, ids[at]] for at in range(first, len(ids))))


def llama_log_shares(path: Path) -> LogShares:
    """Return a reader of llama.cpp's logits for a GGUF file."""
    llama_cpp: Any = importlib.import_module("llama_cpp")
    model = llama_cpp.Llama(
        str(path), n_ctx=256, n_threads=1, n_threads_batch=1, logits_all=True, verbose=False
    )

    def read(ids: Sequence[int]) -> np.ndarray:
        model.reset()
        model.eval(list(ids))
        rows = np.array(model.scores[: len(ids)], np.float64)
        rows -= rows.max(1, keepdims=True)
        return rows - np.log(np.exp(rows).sum(1, keepdims=True))

    return read


def our_log_shares(loaded: LoadedModel) -> LogShares:
    """Return a reader of the kernels' logits, with the weights as stored."""
    packed = pack_form(loaded.form, loaded.weights, "stored")
    return lambda ids: log_shares(packed, ids)


def main(argv: Sequence[str] | None = None) -> int:
    """Score and print; 0 unless the two differ."""
    parser = argparse.ArgumentParser(prog="bench.tasks", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--items", type=int, help="only so many of the questions")
    options = parser.parse_args(argv)
    loaded, items = load_model(options.model), read_items()[: options.items]
    found = {"kernels": choices(items, loaded.tokenizer.encode_ids, our_log_shares(loaded))}
    try:
        found["llama.cpp"] = choices(items, loaded.tokenizer.encode_ids, llama_log_shares(loaded.path))
    except ModuleNotFoundError as error:
        print(f"without llama.cpp: {error}")
    scores = {name: each.accuracies() for name, each in found.items()}
    rows = [[name, f"{plain:.1%}", f"{normalised:.1%}"] for name, (plain, normalised) in scores.items()]
    print(f"{options.model}: {len(items)} questions, guessing gets 25%\n")
    print(table(["", "acc", "acc_norm"], rows))
    if len(found) == 1:
        return 0
    ours, theirs = found.values()
    same = sum(a == b for a, b in zip(ours.plain, theirs.plain, strict=True))
    print(f"\nthe same answer to {same} of {len(items)} questions")
    apart = max(abs(a - b) for a, b in zip(*scores.values(), strict=True))
    return int(apart > MOST_APART)


if __name__ == "__main__":
    sys.exit(main())
