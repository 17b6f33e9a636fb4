"""The decoder that runs the kernels on a CPU; the engine drives it.

One step reads at most one chunk of waiting prompts and advances every running reply by one token, all as rows
of one pass through the model. With no prompt waiting, several steps run in one call, as many as fit into
a few milliseconds. A reply has the same bits in every batch, in any chunks, on any number of threads.
Synchronous, to be called from one thread.

N sequences that draw, V vocabulary, T context window.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from niels_gpt.decoding.pacing import StepThreads
from niels_gpt.decoding.prefix_cache import PrefixCache, State
from niels_gpt.decoding.request import DecoderError, GenerationRequest, Step
from niels_gpt.decoding.row_decoder import RELEASED, RowBatch, RowDecoder, RowSequence
from niels_gpt.decoding.sequence import SequenceState, row_multipliers
from niels_gpt.kernels.bdh_packing import PackedBDH
from niels_gpt.kernels.gpt_layout import Rows, release
from niels_gpt.kernels.gpt_packing import PackedModel
from niels_gpt.kernels.object_code import Arguments, Entry, calls_of
from niels_gpt.kernels.slots import UNIFORMS, doubled, new_drawn, new_scratch, new_slots, set_slot
from niels_gpt.text.tokenizer import Tokenizer

# How long a call without the GIL may last: short for a person or the event loop, long compared with the work
# in Python between two calls.
CALL_SECONDS = 0.004
MOST_STEPS = 8
CHUNK = 64
NO_STATE = State(np.zeros(0, np.float32), 0)
PREFIX_CACHE_TOKENS = 8192
LEAST_CACHE_BYTES, MOST_CACHE_BYTES = 64 * 2**20, 512 * 2**20
LEAST_REUSED = 8  # copying the keys and values of fewer tokens costs as much as reading them


@dataclass(eq=False)
class KernelSequence(RowSequence):
    """A reply, and its keys and values."""

    state: State = NO_STATE
    pinned: int | None = None
    """The argument of `PrefixCache.unpin`, once the state is in the prefix cache."""


class KernelDecoder(RowDecoder[KernelSequence]):
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
        super().__init__(tokenizer, V=model.shape.V, prefill_chunk=prefill_chunk, usual_chunk=CHUNK)
        if threads is not None and threads < 1:
            raise DecoderError(f"got {threads=!r}, expected at least 1")
        self._model, self._calls = model, calls_of(model.arch)
        self._loop, self._arguments = Entry(f"loop {model.arch}"), Arguments()
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
        sequence = KernelSequence(reply, slot, np.array(reply.ids, np.int32), state=state)
        self._take_drafts(sequence, new_tokens)
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

    def _draws_left(self, sequence: KernelSequence) -> int:
        used = self._slots.used[sequence.slot]
        return UNIFORMS - (0 if used == UNIFORMS else int(used))

    def _offer_prompt(self, sequence: KernelSequence) -> None:
        if self._prefix_cache is not None:
            sequence.pinned = self._prefix_cache.pin(sequence.prompt, sequence.state)

    def _reuse(self, sequence: KernelSequence) -> None:
        """Copy the longest cached prefix of the prompt, except the last token, whose logits are needed."""
        model = self._model
        if self._prefix_cache is None or isinstance(model, PackedBDH) or not sequence.reply.request.use_cache:
            return
        if sequence.read >= len(sequence.prompt) - 1:
            return
        state, length = self._prefix_cache.longest(sequence.prompt)
        length = min(length, len(sequence.prompt) - 1)
        if state is not None and length >= sequence.read + LEAST_REUSED:
            sequence.state.copy_from(state, model.shape, sequence.read, length)
            sequence.reused += length - sequence.read
            sequence.read = sequence.committed = length

    def _run(self, batch: RowBatch[KernelSequence]) -> dict[KernelSequence, Step]:
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
        if batch.only_draws:
            steps = max(1, min(MOST_STEPS, int(CALL_SECONDS / self._step_seconds)))
        self._make_room(len(batch.ids), int(rows.rooms.max()), steps, len(drawing))
        done = self._share(
            len(batch.ids), steps, self._calls, self._model.shape, self._model.weights, self._memory.work,
            rows, np.array(batch.wanted, np.int64), drawing, slots, self._scratch,
            row_multipliers(self._model.shape.V), self._drawn,
        )  # fmt: skip
        if self._prefill_budget is not None and len(batch.ids) > len(batch.wanted):
            self._prefill_budget.record(len(batch.ids), self._step_seconds)
        drawn, count = self._drawn, len(drawing)
        columns = (each[:done, :count].T.tolist() for each in (drawn.ids, drawn.sums, drawn.margins))
        return self._take_all(batch.drawing, *columns, logits=drawn.logits[:done, :count])

    def _share(self, rows: int, steps: int, *arguments: object) -> int:
        """Run the steps on all threads; return how many were done."""
        memory = self._memory
        words = self._arguments.address(*arguments)
        try:
            done, self._step_seconds = self._threads.run(
                self._loop, words, rows=rows, steps=steps, release=lambda: release(memory.work.barrier)
            )
        except BaseException:  # a part failed: the barrier and the data may be in any state
            self._memory = self._model.new_memory(
                rows=memory.rows, room=memory.room, parts=self._threads.threads
            )
            raise
        return done

    def _take_all(
        self,
        drawing: Sequence[KernelSequence],
        ids: list[list[int]],
        sums: list[list[int]],
        margins: list[list[float]],
        *,
        logits: np.ndarray,
    ) -> dict[KernelSequence, Step]:
        """Return what was drawn for each sequence.

        Args:
            drawing: The sequences of the columns; one with a draft has several, and there is one step then.
            ids: By column and step, as are `sums` and `margins`.
            sums: The rows' `row_sums`.
            margins: How close the draws were.
            logits: (steps, columns, V in whole vectors) float32.

        """
        results: dict[KernelSequence, Step] = {}
        first, V = 0, self._model.shape.V
        for sequence, found in itertools.groupby(drawing):
            last = first + len(list(found))
            if last - first == 1:
                drawn, rows = (ids[first], sums[first], margins[first]), logits[:, first, :V]
            else:
                own = slice(first, last)
                drawn = (
                    [one for (one,) in ids[own]],
                    [one for (one,) in sums[own]],
                    [one for (one,) in margins[own]],
                )
                rows = logits[0, own, :V]
            results[sequence] = self._take(sequence, *drawn, rows)
            first = last
        return results

    @staticmethod
    def _take(
        sequence: KernelSequence, ids: list[int], sums: list[int], margins: list[float], rows: np.ndarray
    ) -> Step:
        """Return what was drawn for one sequence from `rows` (n, V)."""
        if sequence.draft:
            ids = ids[: sequence.agreed(ids)]
        try:
            return sequence.reply.accept(zip(ids, rows, sums, margins, strict=False))
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
