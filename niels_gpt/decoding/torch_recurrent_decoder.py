"""Decode with torch a model that has a recurrent state of constant size instead of keys and values.

Each sequence has its own state and is read alone, so other sequences cannot change it. On a CPU the kernels
are faster, and exact. It has the methods of the engine's `Decoder` protocol; it is synchronous, to be called
from one thread.

V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch

from niels_gpt.decoding.request import DecoderError, GenerationRequest, Step
from niels_gpt.decoding.sequence import SequenceState
from niels_gpt.model.bdh import BDH, BDHState
from niels_gpt.model.transformer import Transformer, TransformerState
from niels_gpt.text.tokenizer import Tokenizer


@dataclass(eq=False)
class StatefulSequence:
    """A reply and its model's state after the tokens that it has read."""

    reply: SequenceState
    state: BDHState | TransformerState | None
    """None for a reply that is recomputed for every token."""
    read: int = 0

    @property
    def unread(self) -> int:
        """Tokens that the model has not seen."""
        return len(self.reply.ids) - self.read


class TorchStateDecoder:
    """Decodes requests with a `BDH` or `Transformer`, which it moves to `device` and sets to eval mode."""

    def __init__(
        self, model: BDH | Transformer, tokenizer: Tokenizer, *, device: str = "cpu", prefill_chunk: int = 128
    ) -> None:
        """Read at most `prefill_chunk` tokens of prompts per step.

        Raises `DecoderError` for a tokenizer with a different vocabulary, or a chunk below 1.
        """
        if tokenizer.vocab_size != model.cfg.V:
            raise DecoderError(
                f"the tokenizer has {tokenizer.vocab_size} ids, expected the model's V={model.cfg.V}"
            )
        if prefill_chunk < 1:
            raise DecoderError(f"got {prefill_chunk=!r}, expected at least 1")
        self._model = model.to(device).eval()
        self._tokenizer = tokenizer
        self._device = device
        self._chunk = prefill_chunk

    @property
    def model(self) -> BDH | Transformer:
        """The model that it decodes with."""
        return self._model

    def admit(self, request: GenerationRequest) -> StatefulSequence:
        """Admit a request; nothing is computed yet. Raises RequestError if it cannot be served."""
        reply = SequenceState(request, self._tokenizer, context=self._model.cfg.context)
        state = self._model.new_state(1, self._model.cfg.context) if request.use_cache else None
        return StatefulSequence(reply, state)

    @torch.inference_mode()
    def advance(self, sequences: Sequence[StatefulSequence]) -> list[Step]:
        """Run one step for each sequence, in order; none may have finished or failed before.

        A running reply gets its next token. Prompts are read in chunks, first come first served, as many as
        fit into the length of one.
        """
        budget, steps = self._chunk, []
        for sequence in sequences:
            if sequence.unread > 1 and sequence.state is not None:
                if budget < min(sequence.unread, self._chunk):
                    steps.append(Step())
                    continue
                budget -= min(sequence.unread, self._chunk)
            try:
                steps.append(self._step(sequence))
            except Exception as error:  # noqa: BLE001 - what fails for one reply ends that one alone
                steps.append(Step(error=error))
        return steps

    def release(self, sequence: StatefulSequence) -> dict[str, object]:
        """Free what the sequence holds, at any time, and return its reply's metadata."""
        sequence.state = None
        return sequence.reply.receipt("torch")

    def close(self) -> None:
        """Do nothing: torch's threads belong to the process."""

    def _step(self, sequence: StatefulSequence) -> Step:
        reply, state = sequence.reply, sequence.state
        if state is None:
            return reply.take(self._model(self._tensor(reply.ids))[0, -1].cpu())
        count = min(sequence.unread, self._chunk)
        ids = reply.ids[sequence.read : sequence.read + count]
        sequence.read += count
        logits = self._model.forward_from(self._tensor(ids), cast("Any", state))
        return reply.take(logits[0, -1].cpu()) if sequence.unread == 0 else Step()

    def _tensor(self, ids: list[int]) -> torch.Tensor:
        return torch.tensor([ids], dtype=torch.int64, device=self._device)
