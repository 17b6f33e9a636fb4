"""One reply in the making: from a row of logits to a token, its text, and whether the reply ends with it.

Every decoder uses it, so that all of them draw, stop and count in the same way. Knows nothing of models,
caches or batches: the rows of logits come from somewhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

import numpy as np
import torch

from niels_gpt.infer.request import FinishReason, GenerationRequest, RequestError, Step
from niels_gpt.rng import make_generator
from niels_gpt.sampling import LogitsError, draw
from niels_gpt.text_stream import TextAssembler
from niels_gpt.tokenizer import Tokenizer


class Reply:
    """The tokens of one sequence, prompt first, and the random generator that draws the next one."""

    def __init__(self, request: GenerationRequest, tokenizer: Tokenizer, *, context: int) -> None:
        """`context` is the most tokens that prompt and reply have together. No room: `RequestError`."""
        prompt_tokens = len(request.prompt_ids)
        if prompt_tokens >= context:
            raise RequestError(
                f"the prompt has {prompt_tokens} tokens, the context window holds {context}; expected fewer, "
                "so that a reply fits: drop the oldest turns"
            )
        request.check_vocabulary(tokenizer.vocab_size)
        self.request = request
        self.watch: Callable[[np.ndarray], None] | None = None
        """Sees every row of logits (V,) that a token was drawn from, in order; the row is gone afterwards."""
        self.ids = list(request.prompt_ids)
        self._context = context
        self._generator = make_generator(request.seed)
        self._text = TextAssembler(tokenizer.token_bytes, request.stop_sequences)
        self._logits_hash = hashlib.sha256()

    @property
    def reply_tokens(self) -> int:
        """Tokens drawn so far."""
        return len(self.ids) - len(self.request.prompt_ids)

    def take(self, logits: torch.Tensor) -> Step:
        """Draw the next token from logits (V,), float32 on the CPU; `LogitsError` for NaN or infinity."""
        if not torch.isfinite(logits).all():
            raise self._spoiled(logits.numpy())
        request = self.request
        token_id = draw(logits, request.sampling, self.ids, request.banned_ids, self._generator)
        text, finish = self._append(token_id, logits.numpy())
        return Step(tokens=((token_id, text),), finish=finish)

    def accept(self, drawn: Iterable[tuple[int, np.ndarray]]) -> Step:
        """Take tokens drawn elsewhere from this reply's `uniforms`: (id, its logits (V,) float32) in order.

        What was drawn beyond the reply's end is dropped. A negative id stands for logits that no token can be
        taken from: `LogitsError`.
        """
        tokens: list[tuple[int, str]] = []
        finish: FinishReason | None = None
        for token_id, logits in drawn:
            if token_id < 0:
                raise self._spoiled(logits)
            text, finish = self._append(token_id, logits)
            tokens.append((token_id, text))
            if finish is not None:
                break
        return Step(tokens=tuple(tokens), finish=finish)

    def uniforms(self, count: int) -> np.ndarray:
        """The next doubles (count,) of the reply's generator, the same ones that `take` would draw singly."""
        return torch.rand(count, dtype=torch.float64, generator=self._generator).numpy()

    def _append(self, token_id: int, logits: np.ndarray) -> tuple[str, FinishReason | None]:
        """Hash the row that the token was drawn from, and give the token's text and what it ends."""
        self._logits_hash.update(np.ascontiguousarray(logits, "<f4").data)
        if self.watch is not None:
            self.watch(logits)
        self.ids.append(token_id)
        text = self._text.push(token_id)
        finish = self._finish(token_id)
        return (text if finish is None else text + self._text.finish()), finish

    def _spoiled(self, logits: np.ndarray) -> LogitsError:
        bad = np.flatnonzero(~np.isfinite(logits))
        if len(bad) == 0:
            return LogitsError(f"all {len(logits)} tokens are ruled out; ban fewer ids")
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
        """Give a JSON-able account of the reply; `path` names the arithmetic behind its logits.

        `logits_hash` is SHA-256 over the rows that were drawn from, in order, as little-endian float32.
        """
        return {
            "prompt_tokens": len(self.request.prompt_ids),
            "reply_tokens": self.reply_tokens,
            "logits_hash": self._logits_hash.hexdigest(),
            "path": path,
        }
