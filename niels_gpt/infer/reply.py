"""One reply in the making: from a row of logits to a token, its text, and whether the reply ends with it.

Every decoder uses it, so that all of them draw, stop and count in the same way. Knows nothing of models,
caches or batches: the rows of logits come from somewhere.
"""

from __future__ import annotations

import hashlib

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
            bad = int((~torch.isfinite(logits)).nonzero()[0])
            raise LogitsError(
                f"the logit of token {bad} is {logits[bad].item()!r} after {len(self.ids)} tokens, expected "
                "a finite number; the checkpoint is damaged, or its training diverged"
            )
        request = self.request
        token_id = draw(logits, request.sampling, self.ids, request.banned_ids, self._generator)
        self._logits_hash.update(logits.numpy().astype("<f4", copy=False).tobytes())
        self.ids.append(token_id)
        text = self._text.push(token_id)
        finish = self._finish(token_id)
        if finish is not None:
            text += self._text.finish()
        return Step(tokens=((token_id, text),), finish=finish)

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
