"""Decode many replies at once with torch over one model, each at its own position.

One step reads at most one chunk of waiting prompts and then moves every running reply by one token in a
single forward, at whatever position each is. It has the methods of the engine's `Decoder` protocol; it is
synchronous, to be called from one thread.

B sequences of a step, t tokens of one, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from niels_gpt.decoding.request import DecoderError, GenerationRequest, Step
from niels_gpt.decoding.sequence import SequenceState
from niels_gpt.decoding.torch_kv_buffer import KVBuffer, Row
from niels_gpt.model.gpt import GPT
from niels_gpt.model.kv_cache import forward_cached
from niels_gpt.text.tokenizer import Tokenizer


@dataclass(frozen=True, eq=False)
class CachedSequence:
    """A reply whose keys and values are kept in a row of the shared tensor."""

    reply: SequenceState
    row: Row

    @property
    def unread(self) -> int:
        """Tokens that the model has not seen: 1 for a running reply, more while the prompt is being read."""
        return len(self.reply.ids) - self.row.length


@dataclass(frozen=True, eq=False)
class RecomputedSequence:
    """A reply whose tokens are all read again at every step: the reference for cached decoding."""

    reply: SequenceState


_ArgT = TypeVar("_ArgT")
TorchSequence = CachedSequence | RecomputedSequence


class TorchDecoder:
    """Decodes requests with a `GPT`, which it moves to `device` and sets to eval mode."""

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        *,
        device: str = "cpu",
        prefill_chunk: int = 128,
        max_batch: int | None = None,
    ) -> None:
        """Read at most `prefill_chunk` tokens of prompts per step, and hold at most `max_batch` replies.

        Raises `DecoderError` for a tokenizer with a different vocabulary, or a bound below 1.
        """
        cfg = model.cfg
        if tokenizer.vocab_size != cfg.V:
            raise DecoderError(
                f"the tokenizer has {tokenizer.vocab_size} ids, expected the model's V={cfg.V}"
            )
        if prefill_chunk < 1 or (max_batch is not None and max_batch < 1):
            raise DecoderError(f"got {prefill_chunk=!r} and {max_batch=!r}, expected at least 1")
        self._model = model.to(device).eval()
        self._tokenizer = tokenizer
        self._device = torch.device(device)
        self._prefill_chunk = prefill_chunk
        self._max_batch = max_batch
        self._held: set[TorchSequence] = set()
        dtype = model.tok_emb.weight.dtype
        self._buffer = KVBuffer(L=cfg.L, H=cfg.H, T=cfg.T, D=cfg.D, device=self._device, dtype=dtype)

    @property
    def model(self) -> GPT:
        """The model that it decodes with."""
        return self._model

    @torch.inference_mode()
    def admit(self, request: GenerationRequest) -> TorchSequence:
        """Admit a request; nothing is computed yet.

        Raises:
            RequestError: The request cannot be served.
            DecoderError: The decoder is full.

        """
        if self._max_batch is not None and len(self._held) >= self._max_batch:
            raise DecoderError(f"all {self._max_batch} places are taken, expected a release first")
        reply = SequenceState(request, self._tokenizer, context=self._model.cfg.T)
        cached = request.use_cache
        sequence = CachedSequence(reply, self._buffer.take()) if cached else RecomputedSequence(reply)
        self._held.add(sequence)
        return sequence

    @torch.inference_mode()
    def advance(self, sequences: Sequence[TorchSequence]) -> list[Step]:
        """Run one step for each sequence, in order; none may have finished or failed before.

        A running reply gets its next token. Prompts are read in chunks, first come first served, as many as
        fit into the length of one, so running replies never wait for more than that. A failure of a single
        sequence is the error of its step; only a failure of the common forward is raised.
        """
        recomputed = [sequence for sequence in sequences if isinstance(sequence, RecomputedSequence)]
        cached = [sequence for sequence in sequences if isinstance(sequence, CachedSequence)]
        reading = [sequence for sequence in cached if sequence.unread > 1]
        running = [sequence for sequence in cached if sequence.unread == 1]
        steps: dict[TorchSequence, Step] = {}
        for sequence in recomputed:
            steps[sequence] = _guarded(self._recompute, sequence.reply)
        for sequence in self._affordable(reading):
            steps[sequence] = _guarded(self._read_chunk, sequence)
        if running:
            steps |= self._step_together(running)
        return [steps.get(sequence, Step()) for sequence in sequences]

    @torch.inference_mode()
    def release(self, sequence: TorchSequence) -> dict[str, object]:
        """Free what the sequence holds, at any time, and return its reply's metadata."""
        if isinstance(sequence, CachedSequence):
            self._buffer.free(sequence.row)
        self._held.discard(sequence)
        return sequence.reply.receipt("torch")

    def close(self) -> None:
        """Do nothing: torch's threads belong to the process."""

    def _affordable(self, reading: Sequence[CachedSequence]) -> Iterator[CachedSequence]:
        # Chunks are never cut to fit: where a prompt is cut must not depend on the other sequences.
        budget = self._prefill_chunk
        for sequence in reading:
            budget -= min(sequence.unread, self._prefill_chunk)
            if budget < 0:
                return
            yield sequence

    def _recompute(self, reply: SequenceState) -> Step:
        return reply.take(_last_rows(self._model(self._tensor([reply.ids])))[0])

    def _read_chunk(self, sequence: CachedSequence) -> Step:
        reply, row = sequence.reply, sequence.row
        ids = reply.ids[row.length : row.length + self._prefill_chunk]
        logits = self._forward([ids], [row])
        return reply.take(logits[0]) if sequence.unread == 0 else Step()

    def _step_together(self, running: Sequence[CachedSequence]) -> dict[TorchSequence, Step]:
        self._buffer.pack([sequence.row for sequence in running])
        in_place = sorted(running, key=lambda sequence: sequence.row.index)
        last_ids = [sequence.reply.ids[-1:] for sequence in in_place]
        logits = self._forward(last_ids, [sequence.row for sequence in in_place])
        return {
            sequence: _guarded(sequence.reply.take, row_logits)
            for sequence, row_logits in zip(in_place, logits, strict=True)
        }

    def _forward(self, ids: list[list[int]], rows: Sequence[Row]) -> torch.Tensor:
        """Read the next ids (B, t) of adjacent rows; return their last logits (B, V), float32 on the CPU."""
        k, v, start = self._buffer.extend(rows, len(ids[0]))
        logits, _ = forward_cached(self._model, self._tensor(ids), k, v, start)
        return _last_rows(logits)

    def _tensor(self, ids: list[list[int]]) -> torch.Tensor:
        return torch.tensor(ids, dtype=torch.int64, device=self._device)


def _last_rows(logits: torch.Tensor) -> torch.Tensor:
    return logits[:, -1].float().cpu()


def _guarded(work: Callable[[_ArgT], Step], arg: _ArgT) -> Step:
    try:
        return work(arg)
    except Exception as error:  # noqa: BLE001  # whatever one sequence's own work raises ends that sequence alone
        return Step(error=error)
