"""The decoder that runs the kernels on a CPU; the engine drives it.

One step reads at most one chunk of waiting prompts and advances every running reply by one token, all as rows
of one pass through the model. With no prompt waiting, several steps run in one call, as many as fit into
about a millisecond. A reply has the same bits alone, in any batch, in any chunks, on any number of threads.
Synchronous, to be called from one thread.

N sequences that draw, V vocabulary, T context window.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from niels_gpt.decoding.pacing import PrefillBudget, StepThreads
from niels_gpt.decoding.prefix_cache import PrefixCache, State
from niels_gpt.decoding.request import DecoderError, GenerationRequest, Step
from niels_gpt.decoding.sequence import SequenceState, row_multipliers
from niels_gpt.kernels.barrier import release
from niels_gpt.kernels.bdh_packing import PackedBDH
from niels_gpt.kernels.decode_loop import (
    UNIFORMS,
    doubled,
    new_drawn,
    new_scratch,
    new_slots,
    run,
    undo_draws,
)
from niels_gpt.kernels.gpt import Rows
from niels_gpt.kernels.gpt_packing import PackedModel
from niels_gpt.kernels.sampler import set_slot
from niels_gpt.text.tokenizer import Tokenizer

# How long a call without the GIL may last: short for a person or the event loop, long compared with the work
# in Python between two calls.
CALL_SECONDS = 0.001
MOST_STEPS = 8
CHUNK = 64
RELEASED = -1  # the slot of a released sequence
NO_STATE = State(np.zeros(0, np.float32), 0)
PREFIX_CACHE_TOKENS = 8192
LEAST_CACHE_BYTES, MOST_CACHE_BYTES = 64 * 2**20, 512 * 2**20
LEAST_REUSED = 8  # copying the keys and values of fewer tokens costs as much as reading them


@dataclass(eq=False)
class KernelSequence:
    """A reply, its slot, and its keys and values."""

    reply: SequenceState
    slot: int
    state: State
    prompt: np.ndarray
    """(tokens known before the first draw,) int32."""
    read: int = 0
    """Tokens whose keys and values are in the state, those of the step that runs included."""
    committed: int = 0
    """Tokens whose keys and values are in the state for certain: no step that failed wrote them."""
    reused: int = 0
    """How many of these came from the prefix cache."""
    pinned: int | None = None
    """The argument of `PrefixCache.unpin`, once the state is in the prefix cache."""
    draft: list[int] = field(default_factory=list)
    """Expected next tokens; they are read ahead as a prompt is."""

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


@dataclass(eq=False)
class _Batch:
    """The rows of one step, as lists: a token each, with its position and its sequence's slot."""

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    wanted: list[int] = field(default_factory=list)
    """The rows that are drawn from, and their sequences."""
    drawing: list[KernelSequence] = field(default_factory=list)

    def add(self, sequence: KernelSequence, count: int) -> None:
        """Add the next `count` unread tokens; the sequence draws after its last one and after its draft's."""
        reply_ids, first, row = sequence.reply.ids, sequence.read, len(self.ids)
        sequence.read += count
        self.ids += (reply_ids + sequence.draft if sequence.draft else reply_ids)[first : sequence.read]
        self.positions += range(first, sequence.read)
        self.slots += [sequence.slot] * count
        for position in range(max(first, len(reply_ids) - 1), sequence.read):
            self.wanted.append(row + position - first)
            self.drawing.append(sequence)


class KernelDecoder:
    """Decodes requests with a packed GPT on the CPU."""

    def __init__(
        self,
        model: PackedModel | PackedBDH,
        tokenizer: Tokenizer,
        *,
        prefill_chunk: int | None = None,
        threads: int | None = None,
        prefix_cache_bytes: int | None = None,
    ) -> None:
        """Make a decoder for a packed model.

        Args:
            model: The packed weights.
            tokenizer: One with as many ids as the model.
            prefill_chunk: Tokens of prompts that a step reads, at most; None: a number that suits a chat,
                larger where a prompt is alone (`pacing.PrefillBudget`).
            threads: Threads that share a step where they can; None: as many as measure faster (`threads`).
            prefix_cache_bytes: Bytes of states of ended replies to keep for prompts that begin alike; None:
                space for `PREFIX_CACHE_TOKENS` tokens of this model, within bounds.

        Raises:
            DecoderError: The tokenizer does not fit, or a number is below 1.

        """
        if tokenizer.vocab_size != model.shape.V:
            raise DecoderError(
                f"the tokenizer has {tokenizer.vocab_size} ids, expected the model's V={model.shape.V}"
            )
        if (prefill_chunk is not None and prefill_chunk < 1) or (threads is not None and threads < 1):
            raise DecoderError(f"got {prefill_chunk=!r} and {threads=!r}, expected at least 1")
        self._model = model
        self._tokenizer = tokenizer
        self._chunk = prefill_chunk or CHUNK
        self._prefill_budget = PrefillBudget(CHUNK) if prefill_chunk is None else None
        self._threads = StepThreads(threads if model.may_split else 1)
        self._memory = model.new_memory(rows=self._chunk, room=64, parts=self._threads.threads)
        self._scratch = new_scratch(model.shape.V, model.shape.head_row)
        self._slots = new_slots(4, model.shape.V)
        self._free = [3, 2, 1, 0]
        self._drawn = new_drawn(1, 1, model.shape.head_row)
        self._step_seconds = CALL_SECONDS
        # A BDH's state depends on all tokens that it has read: it cannot be cut to a shared prefix.
        self._prefix_cache: PrefixCache | None = None
        if isinstance(model, PackedModel) and prefix_cache_bytes != 0:
            usual = min(max(PREFIX_CACHE_TOKENS * model.token_bytes, LEAST_CACHE_BYTES), MOST_CACHE_BYTES)
            most = usual if prefix_cache_bytes is None else prefix_cache_bytes
            self._prefix_cache = PrefixCache(model.shape, most_bytes=most)

    @property
    def model(self) -> PackedModel | PackedBDH:
        """The packed weights."""
        return self._model

    @property
    def reads_drafts(self) -> bool:
        """Whether a draft makes decoding faster: a BDH cannot undo what it has read."""
        return isinstance(self._model, PackedModel)

    @property
    def threads(self) -> int:
        """The most threads that share a step."""
        return self._threads.threads

    def admit(self, request: GenerationRequest) -> KernelSequence:
        """Admit a request; nothing is computed yet. RequestError if it cannot be served."""
        reply = SequenceState(request, self._tokenizer, context=self._model.T)
        request = reply.request
        new_tokens = min(request.max_new_tokens - len(request.forced_ids), self._model.T - len(reply.ids))
        state = State(*self._model.new_state(len(reply.ids) + new_tokens))
        slot = self._take_slot()
        slots = self._slots
        slots.state[slot], slots.room[slot] = state.floats.ctypes.data, state.room
        slots.remaining[slot], slots.used[slot] = new_tokens, UNIFORMS
        set_slot(slots.settings, slot, request.sampling)
        slots.counts[slot] = np.bincount(reply.ids, minlength=self._model.shape.V)
        for flags, ids in ((slots.banned, request.banned_ids), (slots.stops, request.stop_ids)):
            flags[slot] = False
            flags[slot, list(ids)] = True
        sequence = KernelSequence(reply, slot, state, np.array(reply.ids, np.int32))
        if request.use_cache and self.reads_drafts:
            sequence.draft = list(request.draft_ids[: new_tokens - 1])
        self._reuse(sequence)
        return sequence

    def release(self, sequence: KernelSequence) -> dict[str, object]:
        """Free what the sequence holds, at any time, and return its reply's metadata."""
        if sequence.slot != RELEASED:
            self._free.append(sequence.slot)
            if self._prefix_cache is not None and sequence.reply.request.use_cache:
                if sequence.pinned is not None:
                    self._prefix_cache.unpin(sequence.pinned)
                self._prefix_cache.keep(sequence.reply.ids[: sequence.committed], sequence.state)
            sequence.slot, sequence.state = RELEASED, NO_STATE
        return sequence.reply.receipt("kernels") | {"reused_tokens": sequence.reused}

    def close(self) -> None:
        """End the threads that share steps."""
        self._threads.close()

    def advance(self, sequences: Sequence[KernelSequence]) -> list[Step]:
        """Run one step or more for each sequence, in order; none may have finished or failed before."""
        if not sequences:
            return []
        batch, shares = _Batch(), self._shares(sequences)
        for sequence in sequences:
            if not sequence.reply.request.use_cache:
                sequence.read = 0  # read everything again
            batch.add(sequence, shares.get(sequence, sequence.unread))
        results = self._run(batch)
        for sequence in sequences:
            sequence.committed = sequence.read
        if self._prefix_cache is not None:
            for sequence in shares:
                if sequence.committed >= len(sequence.prompt):
                    sequence.pinned = self._prefix_cache.pin(sequence.prompt, sequence.state)
        return [results.get(sequence, Step()) for sequence in sequences]

    def _shares(self, sequences: Sequence[KernelSequence]) -> dict[KernelSequence, int]:
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

        def give(sequence: KernelSequence, most: int) -> int:
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

    def _readable(self, sequence: KernelSequence) -> int:
        """Return how many unread tokens can be read now: of a draft as many as there are draws for."""
        used = self._slots.used[sequence.slot]
        draws = UNIFORMS - (0 if used == UNIFORMS else int(used))
        return min(sequence.unread, len(sequence.reply.ids) - 1 + draws - sequence.read)

    def _reuse(self, sequence: KernelSequence) -> None:
        """Copy the longest cached prefix of the prompt, except the last token, whose logits are needed."""
        model = self._model
        if self._prefix_cache is None or isinstance(model, PackedBDH) or not sequence.reply.request.use_cache:
            return
        state, length = self._prefix_cache.longest(sequence.prompt)
        length = min(length, len(sequence.prompt) - 1)
        if state is not None and length >= sequence.read + LEAST_REUSED:
            sequence.state.copy_from(state, model.shape, sequence.read, length)
            sequence.reused += length - sequence.read
            sequence.read = sequence.committed = length

    def _run(self, batch: _Batch) -> dict[KernelSequence, Step]:
        slots, drawing = self._slots, np.array([sequence.slot for sequence in batch.drawing], np.int64)
        for sequence in batch.drawing:
            self._refill(sequence)
        owners = np.array(batch.slots, np.int64)
        rows = Rows(
            ids=np.array(batch.ids, np.int64),
            positions=np.array(batch.positions, np.int64),
            states=slots.state[owners],
            rooms=slots.room[owners],
        )
        slots.position[drawing] = rows.positions[batch.wanted]
        steps = 1
        if len(batch.ids) == len(batch.drawing) and not any(each.draft for each in batch.drawing):
            # No sequence reads a prompt or a draft.
            steps = max(1, min(MOST_STEPS, int(CALL_SECONDS / self._step_seconds)))
        self._make_room(len(batch.ids), int(rows.rooms.max()), steps, len(drawing))
        done = self._share(
            len(batch.ids), steps, self._model.shape, self._model.weights, self._memory.work, rows,
            np.array(batch.wanted, np.int64), drawing, slots, self._scratch,
            row_multipliers(self._model.shape.V), self._drawn,
        )  # fmt: skip
        results: dict[KernelSequence, Step] = {}
        first = 0
        for sequence, draws in itertools.groupby(batch.drawing):
            columns = slice(first, first + len(list(draws)))
            results[sequence] = self._take(sequence, columns, done)
            first = columns.stop
        return results

    def _share(self, rows: int, steps: int, *arguments: object) -> int:
        """Run the steps on all threads; return how many were done."""
        memory = self._memory
        try:
            done, self._step_seconds = self._threads.run(
                run, *arguments, rows=rows, steps=steps, release=lambda: release(memory.work.barrier)
            )
        except BaseException:  # a part failed: the barrier and the data may be in any state
            self._memory = self._model.new_memory(
                rows=memory.rows, room=memory.room, parts=self._threads.threads
            )
            raise
        if self._prefill_budget is not None and done == 1:
            self._prefill_budget.record(rows, self._step_seconds)
        return done

    def _take(self, sequence: KernelSequence, columns: slice, steps: int) -> Step:
        """Return what was drawn for a sequence, in one column by step or in one step by column."""
        drawn, V = self._drawn, self._model.shape.V
        ids, margins, sums = (
            each[:steps, columns].ravel().tolist() for each in (drawn.ids, drawn.margins, drawn.sums)
        )
        logits = drawn.logits[:steps, columns, :V].reshape(len(ids), V)
        agreed = sequence.agreed(ids)
        undo_draws(self._slots, sequence.slot, ids[agreed:])
        try:
            rows = zip(ids[:agreed], logits, sums, margins, strict=False)
            return sequence.reply.accept(rows)
        except Exception as error:  # noqa: BLE001  # what fails for one reply ends that one alone
            return Step(error=error)
        finally:
            sequence.read = len(sequence.reply.ids) - 1

    def _refill(self, sequence: KernelSequence) -> None:
        slot = sequence.slot
        if self._slots.used[slot] == UNIFORMS:
            self._slots.uniforms[slot] = sequence.reply.uniforms(UNIFORMS)
            self._slots.used[slot] = 0

    def _make_room(self, rows: int, room: int, steps: int, drawing: int) -> None:
        memory = self._memory
        if rows > memory.rows or room > memory.room:
            self._memory = self._model.new_memory(
                rows=max(rows, memory.rows), room=max(room, memory.room), parts=self._threads.threads
            )
        have = self._drawn.ids.shape
        if steps > have[0] or drawing > have[1]:
            self._drawn = new_drawn(max(steps, have[0]), max(drawing, have[1]), self._model.shape.head_row)

    def _take_slot(self) -> int:
        if not self._free:
            count = len(self._slots.position)
            self._slots = doubled(self._slots, self._model.shape.V)
            self._free = list(range(2 * count - 1, count - 1, -1))
        return self._free.pop()
