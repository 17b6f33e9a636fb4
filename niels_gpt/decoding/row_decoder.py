"""Choose the rows of each step: what the decoders that run a model row by row have in common.

A row is one token of one sequence. A step reads at most one chunk of waiting prompts and advances every
running reply, all as rows of one pass through the model. How the rows are computed is the subclass's matter.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from niels_gpt.decoding.pacing import PrefillBudget
from niels_gpt.decoding.request import DecoderError, Step
from niels_gpt.decoding.sequence import SequenceState
from niels_gpt.decoding.speculation import Speculation, StepCosts
from niels_gpt.text.tokenizer import Tokenizer

RELEASED = -1  # the slot of a released sequence


@dataclass(eq=False)
class RowSequence:
    """A reply that is read and drawn row by row."""

    reply: SequenceState
    slot: int
    prompt: np.ndarray
    """(tokens known before the first draw,) int32."""
    read: int = 0
    """Tokens whose keys and values are in the state, those of the step that runs included."""
    committed: int = 0
    """Tokens whose keys and values are in the state for certain: no step that failed wrote them."""
    reused: int = 0
    """How many of these came from the prefix cache."""
    draft: list[int] = field(default_factory=list)
    """Expected next tokens; they are read ahead as a prompt is."""
    speculation: Speculation | None = None
    """Drafts further tokens while no other reply runs."""

    @property
    def unread(self) -> int:
        """Tokens that the model has not seen: 1 for a running reply, more while the prompt is being read."""
        return len(self.reply.ids) + len(self.draft) - self.read

    def agreed(self, drawn: Sequence[int]) -> int:
        """Return how many of these draws count: up to the first unexpected one, which ends the draft."""
        for n, (token_id, expected) in enumerate(zip(drawn, self.draft, strict=False)):
            if token_id != expected:
                self.draft = []
                return n + 1
        self.draft = self.draft[len(drawn) :]
        return len(drawn)


S = TypeVar("S", bound=RowSequence)


@dataclass(eq=False)
class RowBatch(Generic[S]):
    """The rows of one step, as lists: a token each, with its position and its sequence's slot."""

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    wanted: list[int] = field(default_factory=list)
    """The rows that are drawn from, and their sequences."""
    drawing: list[S] = field(default_factory=list)

    def add(self, sequence: S, count: int) -> None:
        """Add the next `count` unread tokens; the sequence draws after its last one and after its draft's."""
        reply_ids, first, row = sequence.reply.ids, sequence.read, len(self.ids)
        sequence.read += count
        self.ids += (reply_ids + sequence.draft if sequence.draft else reply_ids)[first : sequence.read]
        self.positions += range(first, sequence.read)
        self.slots += [sequence.slot] * count
        for position in range(max(first, len(reply_ids) - 1), sequence.read):
            self.wanted.append(row + position - first)
            self.drawing.append(sequence)

    @property
    def only_draws(self) -> bool:
        """Whether no sequence reads a prompt or a draft, so that several steps can run in one call."""
        return len(self.ids) == len(self.drawing) and not any(each.draft for each in self.drawing)


class RowDecoder(ABC, Generic[S]):
    """Decodes sequences that share the passes through a model."""

    def __init__(self, tokenizer: Tokenizer, *, V: int, prefill_chunk: int | None, usual_chunk: int) -> None:
        """`prefill_chunk` None: `usual_chunk` tokens of prompts a step, more where a prompt is alone."""
        if tokenizer.vocab_size != V:
            raise DecoderError(f"the tokenizer has {tokenizer.vocab_size} ids, expected the model's V={V}")
        if prefill_chunk is not None and prefill_chunk < 1:
            raise DecoderError(f"got {prefill_chunk=!r}, expected at least 1")
        self._tokenizer = tokenizer
        self._chunk = prefill_chunk or usual_chunk
        self._prefill_budget = PrefillBudget(usual_chunk) if prefill_chunk is None else None
        self.step_costs = StepCosts()
        """What steps cost while one reply runs, which decides how long its drafts are."""

    @property
    @abstractmethod
    def reads_drafts(self) -> bool:
        """Whether a draft makes decoding faster."""

    def advance(self, sequences: Sequence[S]) -> list[Step]:
        """Run one step or more for each sequence, in order; none may have finished or failed before."""
        if not sequences:
            return []
        if len(sequences) == 1:
            return [self._advance_alone(sequences[0])]
        return self._advance(sequences)

    def _advance_alone(self, sequence: S) -> Step:
        """Advance the only sequence, which may draft for itself once its prompt has been read."""
        speculation = sequence.speculation
        if speculation is None or sequence.draft or sequence.read < len(sequence.prompt):
            return self._advance([sequence])[0]
        most = min(sequence.reply.most_tokens, self._draws_left(sequence)) - 1
        sequence.draft = speculation.draft(sequence.reply.ids, most)
        rows = len(sequence.draft) + 1
        began = time.perf_counter()
        step = self._advance([sequence])[0]
        seconds = time.perf_counter() - began
        if step.tokens:
            speculation.observe([token_id for token_id, _ in step.tokens])
            self.step_costs.record(rows, len(step.tokens) if rows == 1 else 1, seconds)
        return step

    def _advance(self, sequences: Sequence[S]) -> list[Step]:
        batch, shares = RowBatch[S](), self._shares(sequences)
        prompts = [sequence for sequence in shares if sequence.committed < len(sequence.prompt)]
        for sequence in sequences:
            if not sequence.reply.request.use_cache:
                sequence.read = 0  # read everything again
            batch.add(sequence, shares.get(sequence, sequence.unread))
        results = self._run(batch)
        for sequence in sequences:
            sequence.committed = sequence.read
        for sequence in prompts:
            if sequence.committed >= len(sequence.prompt):
                self._offer_prompt(sequence)
        return [results.get(sequence, Step()) for sequence in sequences]

    def _take_drafts(self, sequence: S, most: int) -> None:
        """Take over what a request says of drafts; the sequence draws at most `most` tokens."""
        request = sequence.reply.request
        if not request.use_cache or not self.reads_drafts:
            return
        sequence.draft = list(request.draft_ids[: most - 1])
        if request.speculate:
            sequence.speculation = Speculation(
                request.prompt_ids, request.examples, request.stop_ids, self.step_costs
            )

    def _shares(self, sequences: Sequence[S]) -> dict[S, int]:
        """Return how many tokens of this step's chunk each prompt in prefill gets.

        Half of the chunk is for the prompt that came first, so that none starves; the rest goes to those with
        the least left, so that a short prompt never waits until a long one has been read.
        """
        reading = [s for s in sequences if s.reply.request.use_cache and s.unread > 1]
        shares, budget = dict.fromkeys(reading, 0), self._chunk
        if self._prefill_budget is not None and len(sequences) > 1:
            budget = self._prefill_budget.shared
        if self._prefill_budget is not None and len(reading) == len(sequences) == 1:
            self._reuse(reading[0])
            budget = self._prefill_budget.next(reading[0].unread)

        def give(sequence: S, most: int) -> int:
            self._reuse(sequence)  # other sequences may have read it since this one was admitted
            share = min(self._readable(sequence) - shares[sequence], most)
            shares[sequence] += share
            return share

        if len(reading) > 1:
            budget -= give(reading[0], -(-budget // 2))
        for sequence in sorted(reading, key=lambda s: s.unread - shares[s]):
            if budget == 0:
                break
            budget -= give(sequence, budget)
        return shares

    def _readable(self, sequence: S) -> int:
        """Return how many unread tokens can be read now: of a draft as many as there are draws for."""
        last = len(sequence.reply.ids) - 1 + self._draws_left(sequence)
        return min(sequence.unread, last - sequence.read)

    @abstractmethod
    def _draws_left(self, sequence: S) -> int:
        """Return how many draws a sequence can make in a step."""

    @abstractmethod
    def _reuse(self, sequence: S) -> None:
        """Take over what is known of the prompt, except the last token, whose logits are needed."""

    @abstractmethod
    def _offer_prompt(self, sequence: S) -> None:
        """Offer a prompt that has been read to other sequences."""

    @abstractmethod
    def _run(self, batch: RowBatch[S]) -> dict[S, Step]:
        """Run the batch, in one step or more; return what was drawn."""
