"""Turn rows of logits into the tokens and text of one sequence, hash them, and detect the end of the reply.

All decoders use it, so that they draw, stop and count in the same way.

The hash of a reply's rows of logits is made of a sum of each row; equal hashes mean equal bits. The sum is
taken modulo 2**64: the 32 bits of each number, as a whole number, times a multiplier of its place. Rows that
differ in one number have different sums; others collide with 2**-33 at worst. SHA-256 over the rows
themselves would cost several percent of a small model's speed. The kernels sum while a row is in the cache
(`niels_gpt.kernels.decode_loop`), to the same numbers.

V vocabulary; "..." stands for any leading dimensions.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from niels_gpt.decoding.request import FinishReason, GenerationRequest, RequestError, Step
from niels_gpt.rng import UniformGenerator
from niels_gpt.sampling.errors import PENALTY_OVERFLOW, LogitsError, all_banned
from niels_gpt.text.detokenizer import Detokenizer
from niels_gpt.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch


class SequenceState:
    """The tokens of one sequence, prompt first, and the random generator that draws the next one."""

    def __init__(self, request: GenerationRequest, tokenizer: Tokenizer, *, context: int) -> None:
        """`context` is the most tokens that prompt and reply have together.

        `RequestError` where there is no room to draw, or where the forced ids end the reply already.
        """
        request = request.within(tokenizer.vocab_size)
        given = len(request.prompt_ids) + len(request.forced_ids)
        if given >= context:
            raise RequestError(
                f"the prompt has {given} tokens, the context window holds {context}; expected fewer, "
                "so that a reply fits: drop the oldest turns"
            )
        self.request = request
        self.watch: Callable[[np.ndarray], None] | None = None
        """Called with every row of logits (V,) that a token was drawn from, in order; do not keep the row."""
        self.ids = [*request.prompt_ids, *request.forced_ids]
        self._context = context
        self._generator = UniformGenerator(request.seed)
        self._text = Detokenizer(tokenizer.token_bytes, request.stop_sequences)
        self._sums: list[int] = []
        self._smallest_margin, self._smallest_index = math.inf, 0
        self._opening = self._forced()

    def _forced(self) -> list[tuple[int, str]]:
        """Return the forced ids with their texts; each uses the draw that it replaces."""
        forced_ids = self.request.forced_ids
        self.uniforms(len(forced_ids))
        opening = [(token_id, self._text.push(token_id)) for token_id in forced_ids]
        if self._text.stopped or not self.request.stop_ids.isdisjoint(forced_ids):
            raise RequestError(
                f"the {len(forced_ids)} forced ids end the reply themselves; expected fewer, "
                "so that something is left to draw"
            )
        return opening

    @property
    def reply_tokens(self) -> int:
        """Tokens of the reply so far: the forced ones count once the first one is drawn."""
        return len(self.ids) - len(self.request.prompt_ids) - len(self._opening)

    @property
    def most_tokens(self) -> int:
        """Tokens that the reply may still get."""
        return min(self.request.max_new_tokens - self.reply_tokens, self._context - len(self.ids))

    def take(self, logits: torch.Tensor) -> Step:
        """Draw the next token from logits (V,), float32 on the CPU; `LogitsError` for NaN or infinity."""
        from niels_gpt.sampling.sampler import draw  # noqa: PLC0415 - torch is there where this is called

        row = logits.numpy()
        if not np.isfinite(row).all():
            raise self._unusable(row)
        request = self.request
        token_id = draw(logits, request.sampling, self.ids, request.banned_ids, self._generator)
        # The torch path does not measure how close the draw was.
        return self.accept([(token_id, row, int(row_sums(row)), math.inf)])

    def accept(self, drawn: Iterable[tuple[int, np.ndarray, int, float]]) -> Step:
        """Take tokens that were drawn from this reply's `uniforms`, in order.

        Each is (id, its logits (V,) float32, their `row_sums`, the draw's margin). What was drawn beyond
        the reply's end is dropped. A negative id stands for logits that no token can be taken from:
        `LogitsError`.
        """
        tokens, self._opening = self._opening, []
        finish: FinishReason | None = None
        for token_id, logits, row_sum, margin in drawn:
            if token_id < 0:
                raise self._unusable(logits)
            if self.watch is not None:
                self.watch(logits)
            if self.request.watch is not None:
                self.request.watch(token_id, logits)
            self._sums.append(row_sum)
            if margin < self._smallest_margin:
                self._smallest_margin, self._smallest_index = margin, self.reply_tokens
            text, finish = self._append(token_id)
            tokens.append((token_id, text))
            if finish is not None:
                break
        return Step(tokens=tuple(tokens), finish=finish)

    def uniforms(self, count: int) -> np.ndarray:
        """Return the next doubles (count,) of the reply's generator, those that `take` would draw singly."""
        return self._generator.uniforms(count)

    def _append(self, token_id: int) -> tuple[str, FinishReason | None]:
        """Append a token; return its text and the finish reason, if it ends the reply."""
        self.ids.append(token_id)
        text = self._text.push(token_id)
        finish = self._finish(token_id)
        return (text if finish is None else text + self._text.finish()), finish

    def _unusable(self, logits: np.ndarray) -> LogitsError:
        bad = np.flatnonzero(~np.isfinite(logits))
        if len(bad) == 0:
            everything = len(self.request.banned_ids) == len(logits)
            return LogitsError(all_banned(len(logits)) if everything else PENALTY_OVERFLOW)
        return LogitsError(
            f"the logit of token {bad[0]} is {float(logits[bad[0]])!r} after {len(self.ids)} tokens, "
            "expected a finite number; the checkpoint is damaged, or its training diverged"
        )

    def _finish(self, token_id: int) -> FinishReason | None:
        if token_id in self.request.stop_ids or self._text.stopped:
            return "stop"
        if self.reply_tokens >= self.request.max_new_tokens:
            return "length"
        return "context" if len(self.ids) >= self._context else None

    def receipt(self, path: str) -> dict[str, object]:
        """Return the reply's metadata as JSON values; `path` names the arithmetic behind its logits.

        `logits_hash` stands for the rows that were drawn from, in order (see the function `logits_hash`).
        `smallest_margin` is the closest decision, {"value", "index" in the reply}: how far the draw was from
        the nearest other token, as a share of the probability (of the logits for temperature 0); None where
        the arithmetic does not report it.
        """
        closest = {"value": self._smallest_margin, "index": self._smallest_index}
        return {
            "prompt_tokens": len(self.request.prompt_ids),
            "reply_tokens": self.reply_tokens,
            "logits_hash": logits_hash(self._sums),
            "smallest_margin": closest if self._smallest_margin < math.inf else None,
            "path": path,
        }


@cache
def row_multipliers(count: int) -> np.ndarray:
    """Return the multipliers of a row's places, uint64 (count,), odd and read only.

    They are the first numbers of SplitMix64 (Steele et al. 2014, doi.org/10.1145/2660193.2660195) from
    state 0, made odd. Recorded hashes depend on them, so they never change.
    """
    state = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    numbers = (state ^ (state >> np.uint64(31))) | np.uint64(1)
    numbers.flags.writeable = False
    return numbers


def row_sums(rows: np.ndarray) -> np.ndarray:
    """Return uint64 (...) for rows (..., V) of float32 whose last axis is contiguous."""
    words = rows.astype(np.float32, copy=False).view(np.uint32)
    return np.einsum("...v,v->...", words, row_multipliers(rows.shape[-1]), dtype=np.uint64, casting="safe")


def logits_hash(sums: Sequence[int]) -> str:
    """Return SHA-256, in hex, over the sums of a reply's rows in order, each as 8 bytes, little-endian."""
    return hashlib.sha256(np.array(sums, "<u8").tobytes()).hexdigest()
