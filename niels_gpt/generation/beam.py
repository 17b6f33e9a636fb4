"""Search for the continuations of highest score, keeping a few candidates at each step (beam search).

A candidate's score is the sum of its tokens' log probabilities over (number of new tokens) ** length
penalty. A search ends when no candidate that is still open can beat what has ended, which is judged by the
best that any longer continuation could score, so that nothing better within the beams is missed. Among
equals the lower beam and id come first. All beams of all prompts are read together.

P prompts, K beams, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from niels_gpt.generation.batched_decoder import BatchedDecoder, SteppableModel
from niels_gpt.generation.options import GenerationOptions
from niels_gpt.sampling import scored


@dataclass(frozen=True)
class Beam:
    """A continuation and its score."""

    new_ids: tuple[int, ...]
    log_prob: float
    score: float


@dataclass
class _Search:
    """One prompt's beams."""

    options: GenerationOptions
    prompt_tokens: int
    open: list[float] = field(default_factory=lambda: [0.0])
    """Log probabilities of the open candidates, one for each row."""
    ended: list[Beam] = field(default_factory=list)

    def score(self, log_prob: float, new_tokens: int) -> float:
        return log_prob / new_tokens**self.options.length_penalty

    def end(self, new_ids: Sequence[int], log_prob: float) -> None:
        """Keep a complete continuation if it is among the best K."""
        self.ended.append(Beam(tuple(new_ids), log_prob, self.score(log_prob, len(new_ids))))
        self.ended.sort(key=lambda beam: -beam.score)  # stable: the earlier among equals
        del self.ended[self.options.num_beams :]

    def is_decided(self, new_tokens: int) -> bool:
        """Return whether no open candidate can still be among the best `num_return_sequences`."""
        if not self.open:
            return True
        if len(self.ended) < self.options.num_return_sequences:
            return False
        # A longer continuation can only lose log probability; its length may weigh for or against it.
        lengths = (new_tokens + 1, self.options.max_new_tokens)
        best = max(self.score(max(self.open), length) for length in lengths)
        return self.ended[self.options.num_return_sequences - 1].score >= best


def beam_search(
    model: SteppableModel, prompts: Sequence[Sequence[int]], options: GenerationOptions
) -> list[list[Beam]]:
    """Return the best `num_return_sequences` continuations of each prompt, the best first.

    Penalties and banned ids count; temperature, top-k and the like do not.
    """
    decoder = BatchedDecoder(model, prompts, new_tokens=options.max_new_tokens)
    searches = [_Search(options, len(prompt)) for prompt in prompts]
    live = list(range(len(prompts)))
    for done in range(options.max_new_tokens):
        logits, at = decoder.logits(), 0
        rows: list[int] = []
        tokens: list[int] = []
        for number in live:
            search = searches[number]
            own = range(at, at + len(search.open))
            at = own.stop
            for row, token_id in _extend(search, logits, decoder, own):
                rows.append(row)
                tokens.append(token_id)
            if search.is_decided(done + 1):
                del rows[len(rows) - len(search.open) :], tokens[len(tokens) - len(search.open) :]
                search.open = []
        live = [number for number in live if searches[number].open]
        if not live:
            break
        decoder.keep(rows)
        decoder.append(tokens)
    at = 0
    for number in live:
        search = searches[number]
        for log_prob in search.open:
            search.end(decoder.rows[at][search.prompt_tokens :], log_prob)
            at += 1
    return [search.ended[: options.num_return_sequences] for search in searches]


def _extend(
    search: _Search, logits: torch.Tensor, decoder: BatchedDecoder, own: range
) -> list[tuple[int, int]]:  # fmt: skip
    """Advance a search by one token; return (row, token) of each candidate that stays open."""
    options = search.options
    total = torch.stack(
        [
            log_prob
            + scored(logits[row], options.sampling, decoder.rows[row], options.banned_ids)
            .double()
            .log_softmax(-1)
            for row, log_prob in zip(own, search.open, strict=True)
        ]
    )
    V = total.shape[1]
    # K that go on can always be found among the best K + K * stops, if that many there are.
    wanted = min(total.numel(), options.num_beams * (1 + len(options.stop_ids)))
    flat = total.flatten()
    order = flat.sort(descending=True, stable=True).indices[:wanted].tolist()
    going: list[tuple[int, int]] = []
    search.open = []
    for rank, index in enumerate(order):
        log_prob, row, token_id = float(flat[index]), own[index // V], index % V
        if log_prob == -math.inf or len(going) == options.num_beams:
            break
        if token_id not in options.stop_ids:
            going.append((row, token_id))
            search.open.append(log_prob)
        elif rank < options.num_beams:  # what ends outside of the beam is not in it
            search.end([*decoder.rows[row][search.prompt_tokens :], token_id], log_prob)
    return going
