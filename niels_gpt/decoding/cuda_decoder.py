"""The decoder that runs the kernels on a GPU; the engine drives it.

Replies have the bits that `kernel_decoder` gives on a CPU. Rows are chosen in the same way; keys and values
are in pages of GPU memory, which sequences with the same beginning share. A sequence holds the pages of its
prompt and of its longest reply before its first row is read; until there are enough, it waits. Draws happen
on the GPU, so of each step only the token, its margin and the sum of its logits come back. Steps in which
every sequence draws are recorded as a graph and launched many at a time.

N sequences that draw, W rows that they draw from, V vocabulary.
"""

from __future__ import annotations

import itertools
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from niels_gpt.decoding.cuda_memory import MOST_STEPS, StepMemory
from niels_gpt.decoding.pages import PAGE, PageList, PagePool
from niels_gpt.decoding.request import DecoderError, GenerationRequest, RequestError, Step
from niels_gpt.decoding.row_decoder import RELEASED, RowBatch, RowDecoder, RowSequence
from niels_gpt.decoding.sequence import SequenceState, row_multipliers
from niels_gpt.kernels.bdh_packing import PackedBDH
from niels_gpt.kernels.cuda.bdh import CudaBDH
from niels_gpt.kernels.cuda.driver import Driver
from niels_gpt.kernels.cuda.model import CudaModel, Pages
from niels_gpt.kernels.cuda.slots import DeviceSlots
from niels_gpt.kernels.gpt_packing import PackedModel
from niels_gpt.kernels.slots import NON_FINITE, UNIFORMS
from niels_gpt.text.tokenizer import Tokenizer

CALL_SECONDS = 0.005
"""How long the steps of one call may take together."""
CHUNK = 256
"""Tokens of prompts that a step reads while other sequences wait."""
FIRST_ROWS, FIRST_SLOTS = 64, 8
MEMORY_SHARE = 0.8
"""The share of free memory that keys and values may use, unless a limit is given."""
MOST_GRAPHS = 32
GRAPH_AFTER = 3
"""Calls with as many sequences before their step is recorded as a graph."""


@dataclass(eq=False)
class CudaSequence(RowSequence):
    """A reply, and the pages of its keys and values."""

    need: int = 0
    """Pages that its prompt and its longest reply fill."""
    held: PageList | None = None
    remaining: int = 0
    """Tokens that it may still draw."""
    used: int = UNIFORMS
    """Uniforms of its slot that are spent."""


class CudaDecoder(RowDecoder[CudaSequence]):
    """Decodes requests with a packed transformer on a GPU."""

    def __init__(
        self,
        model: PackedModel | PackedBDH,
        tokenizer: Tokenizer,
        driver: Driver,
        *,
        prefill_chunk: int | None = None,
        memory_bytes: int | None = None,
    ) -> None:
        """Copy a packed model to the GPU and divide memory into pages.

        Args:
            model: The packed weights.
            tokenizer: One with as many ids as the model.
            driver: The GPU.
            prefill_chunk: Tokens of prompts that a step reads, at most; None: a number that suits a chat.
            memory_bytes: What keys and values may use; None: `MEMORY_SHARE` of what is free.

        Raises:
            DecoderError: The tokenizer does not fit, or memory holds no page.
            UnsupportedFormError: The GPU kernels do not compute the model.
            MemoryError: The weights do not fit.

        """
        super().__init__(tokenizer, V=model.shape.V, prefill_chunk=prefill_chunk, usual_chunk=CHUNK)
        self._packed, self._driver = model, driver
        self._model = CudaBDH(model, driver) if isinstance(model, PackedBDH) else CudaModel(model, driver)
        # A BDH's memories depend on all tokens that it has read: no part of them is another sequence's.
        self._is_shared = isinstance(model, PackedModel)
        V, row = model.shape.V, model.shape.head_row
        self._slots = DeviceSlots(driver, V=V, row=row, count=FIRST_SLOTS)
        self._free = list(range(FIRST_SLOTS))[::-1]
        multipliers = row_multipliers(V)
        self._multipliers = driver.allocate(multipliers.nbytes)
        driver.upload(self._multipliers, multipliers)
        self._steps = StepMemory(driver, row=row, rows=FIRST_ROWS)
        self._model.reserve(FIRST_ROWS)
        page_bytes = 4 * self._model.page_floats
        limit = int(driver.free_bytes() * MEMORY_SHARE) if memory_bytes is None else memory_bytes
        if limit < page_bytes:
            raise DecoderError(f"keys and values may use {limit:,} bytes, expected {page_bytes:,} or more")
        self._pool = PagePool(limit // page_bytes)
        self._pages = driver.allocate(self._pool.count * page_bytes)
        self._most_pages = -(-model.T // self._model.page_positions)
        self._table = driver.allocate(4 * FIRST_SLOTS * self._most_pages)
        self._graphs: OrderedDict[int, Callable[[], None]] = OrderedDict()
        self._calls: dict[int, int] = {}
        self._step_seconds = CALL_SECONDS
        self._waiting: list[CudaSequence] = []

    @property
    def model(self) -> PackedModel | PackedBDH:
        """The packed weights, as the CPU kernels read them."""
        return self._packed

    @property
    def reads_drafts(self) -> bool:
        """Whether a draft makes decoding faster: a BDH cannot undo what it has read."""
        return self._is_shared

    @property
    def threads(self) -> int:
        """The threads that share a step; the GPU's own do not count."""
        return 1

    def admit(self, request: GenerationRequest) -> CudaSequence:
        """Admit a request; nothing is computed yet. RequestError if it cannot be served."""
        reply = SequenceState(request, self._tokenizer, context=self._model.T)
        request = reply.request
        new_tokens = min(request.max_new_tokens - len(request.forced_ids), self._model.T - len(reply.ids))
        need = -(-(len(reply.ids) + new_tokens) // self._model.page_positions)
        if need > self._pool.count:
            raise RequestError(
                f"prompt and reply may have {len(reply.ids) + new_tokens:,} tokens together, and the GPU's "
                f"memory holds {self._pool.count * PAGE:,}: lower max_new_tokens"
            )
        slot = self._take_slot()
        counts = np.bincount(reply.ids, minlength=self._packed.shape.V).astype(np.int32)
        self._slots.set(slot, request.sampling, counts, request.banned_ids)
        sequence = CudaSequence(reply, slot, np.array(reply.ids, np.int32), need=need, remaining=new_tokens)
        self._take_drafts(sequence, new_tokens)
        self._waiting.append(sequence)
        return sequence

    def release(self, sequence: CudaSequence) -> dict[str, object]:
        """Free what the sequence holds, at any time, and return its reply's metadata."""
        if sequence in self._waiting:
            self._waiting.remove(sequence)
        if sequence.slot != RELEASED:
            self._free.append(sequence.slot)
            sequence.slot = RELEASED
        if sequence.held is not None:
            if sequence.reply.request.use_cache and self._is_shared:
                self._pool.publish(sequence.held, sequence.reply.ids[: sequence.committed])
            self._pool.release(sequence.held)
            sequence.held = None
        return sequence.reply.receipt("kernels") | {"reused_tokens": sequence.reused}

    def close(self) -> None:
        """Free the GPU's memory."""
        self._graphs.clear()
        self._model.close()
        self._slots.close()
        self._steps.close()
        for address in (self._multipliers, self._pages, self._table):
            self._driver.free(address)

    def advance(self, sequences: Sequence[CudaSequence]) -> list[Step]:
        """Run one step or more for each sequence that has its pages, in order; the others wait."""
        while self._waiting and self._give_pages(self._waiting[0]):
            self._waiting.pop(0)
        running = [sequence for sequence in sequences if sequence.held is not None]
        steps = dict(zip(running, super().advance(running), strict=True))
        return [steps.get(sequence, Step()) for sequence in sequences]

    def _give_pages(self, sequence: CudaSequence) -> bool:
        shares = self._is_shared and sequence.reply.request.use_cache
        prompt = sequence.prompt[:-1].tolist() if shares else []
        sequence.held = self._pool.take(prompt, sequence.need)
        if sequence.held is None:
            return False
        self._share_pages(sequence, len(sequence.held.shared))
        return True

    def _share_pages(self, sequence: CudaSequence, shared: int) -> None:
        """Tell the GPU of a sequence's pages, of which the first ones are full already."""
        known = shared * PAGE
        if known > sequence.read:
            sequence.reused += known - sequence.read
            sequence.read = sequence.committed = known
        if sequence.held is not None:
            place = self._table + 4 * sequence.slot * self._most_pages
            self._driver.upload(place, np.array(sequence.held.pages, np.int32))

    def _reuse(self, sequence: CudaSequence) -> None:
        if sequence.held is None or not self._is_shared or sequence.read >= len(sequence.prompt) - 1:
            return
        before = len(sequence.held.shared)
        shared = self._pool.adopt(sequence.held, sequence.prompt[:-1].tolist())
        if shared > before:
            self._share_pages(sequence, shared)

    def _offer_prompt(self, sequence: CudaSequence) -> None:
        if sequence.held is not None and self._is_shared:
            self._pool.publish(sequence.held, sequence.prompt.tolist())

    def _draws_left(self, sequence: CudaSequence) -> int:
        return UNIFORMS - sequence.used % UNIFORMS

    def _run(self, batch: RowBatch[CudaSequence]) -> dict[CudaSequence, Step]:
        groups = [(sequence, len(list(rows))) for sequence, rows in itertools.groupby(batch.drawing)]
        for sequence, _ in groups:
            if sequence.used == UNIFORMS:
                self._slots.refill(sequence.slot, sequence.reply.uniforms(UNIFORMS))
                sequence.used = 0
        watched = any(_is_watched(sequence) for sequence, _ in groups)
        steps = 1
        if batch.only_draws and not watched:
            steps = max(1, min(MOST_STEPS, int(CALL_SECONDS / self._step_seconds)))
            steps = min(steps, *(min(each.remaining, UNIFORMS - each.used) for each, _ in groups), MOST_STEPS)
        began = time.perf_counter()
        drawn = self._compute(batch, groups, steps)
        seconds = (time.perf_counter() - began) / steps
        if batch.only_draws:
            self._step_seconds = seconds
        if self._prefill_budget is not None and len(batch.ids) > len(batch.wanted):
            self._prefill_budget.record(len(batch.ids), seconds)
        logits = self._steps.read_logits(len(batch.wanted)) if watched else None
        results: dict[CudaSequence, Step] = {}
        first = 0
        for sequence, rows in groups:
            columns = slice(first, first + rows)
            own = None if logits is None else logits[columns, : self._packed.shape.V]
            results[sequence] = self._take(sequence, [part[:, columns].ravel() for part in drawn], own)
            first = columns.stop
        return results

    def _compute(
        self, batch: RowBatch[CudaSequence], groups: list[tuple[CudaSequence, int]], steps: int
    ) -> tuple[np.ndarray, ...]:
        """Run the steps; return ids, margins and sums, each (steps, W)."""
        M, W, N = len(batch.ids), len(batch.wanted), len(groups)
        if self._model.reserve(M) | self._steps.reserve(max(M, W)):
            self._graphs.clear()
        first = np.cumsum([0, *(rows for _, rows in groups)])
        memory = self._steps
        memory.write(batch, [sequence.slot for sequence, _ in groups], first)
        run = max(sum(1 for _ in rows) for _, rows in itertools.groupby(batch.slots))
        rows, draws = memory.rows(M, run), memory.draws(N, W)
        pages = Pages(self._pages, self._table, self._most_pages)

        def step() -> None:
            self._model.forward(rows, pages, memory.wanted, W, memory.logits)
            if N:
                self._slots.draw(
                    draws, memory.logits, self._multipliers, rows.ids, rows.positions, feed=batch.only_draws
                )

        run = self._graph(N, step) if batch.only_draws else step
        for _ in range(steps):
            run()
        return memory.read(steps, W)

    def _graph(self, sequences: int, step: Callable[[], None]) -> Callable[[], None]:
        """Return the step of so many sequences as a graph, once it has been run a few times."""
        self._calls[sequences] = self._calls.get(sequences, 0) + 1
        if self._calls[sequences] < GRAPH_AFTER:
            return step
        if sequences not in self._graphs:
            self._graphs[sequences] = self._driver.graph(step)
            if len(self._graphs) > MOST_GRAPHS:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(sequences)
        return self._graphs[sequences]

    def _take(self, sequence: CudaSequence, drawn: list[np.ndarray], logits: np.ndarray | None) -> Step:
        ids, margins, sums = (part.tolist() for part in drawn)
        ids = ids[: sequence.agreed(ids)]
        valid = sum(token_id >= 0 for token_id in ids)
        sequence.remaining -= valid
        if sequence.reply.request.sampling.temperature > 0:
            sequence.used += valid
        rows = itertools.repeat(np.zeros(0, np.float32)) if logits is None else iter(logits)
        try:
            return sequence.reply.accept(self._with_logits(ids, rows, sums, margins))
        except Exception as error:  # noqa: BLE001  # what fails for one reply ends that one alone
            return Step(error=error)
        finally:
            sequence.read = len(sequence.reply.ids) - 1

    def _with_logits(
        self, ids: list[int], logits: Iterable[np.ndarray], sums: list[int], margins: list[float]
    ) -> Iterable[tuple[int, np.ndarray, int, float]]:
        for token_id, row, row_sum, margin in zip(ids, logits, sums, margins, strict=False):
            yield token_id, row if token_id >= 0 else self._unusable_row(token_id, row_sum), row_sum, margin

    def _unusable_row(self, code: int, row_sum: int) -> np.ndarray:
        """Return a row with the first bad logit of one that no token can be drawn from."""
        row = np.zeros(self._packed.shape.V, np.float32)
        if code == NON_FINITE:  # see sampler.cu
            row.view(np.uint32)[row_sum >> 32] = row_sum & 0xFFFFFFFF
        return row

    def _take_slot(self) -> int:
        if not self._free:
            count = self._slots.count
            table = np.zeros((2 * count, self._most_pages), np.int32)
            self._driver.download(self._table, table[:count])
            self._driver.free(self._table)
            self._table = self._driver.allocate(table.nbytes)
            self._driver.upload(self._table, table)
            self._slots = self._slots.grown(2 * count)
            self._graphs.clear()
            self._free = list(range(2 * count - 1, count - 1, -1))
        return self._free.pop()


def _is_watched(sequence: CudaSequence) -> bool:
    return sequence.reply.watch is not None or sequence.reply.request.watch is not None
