"""A checkpoint, loaded and ready to answer: its template, its decoder, and the requests it takes.

torch is imported only where it computes: on other devices, and where Numba cannot run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from niels_gpt.conversation.errors import ChatError, LoadFailed
from niels_gpt.conversation.options import ChatOptions
from niels_gpt.conversation.settings import Settings
from niels_gpt.decoding.backend import open_backend
from niels_gpt.decoding.request import GenerationRequest
from niels_gpt.device import device_named
from niels_gpt.errors import NielsGptError
from niels_gpt.model.config import ModelConfig, to_dict
from niels_gpt.model.loading import load_model as load_checkpointed_model
from niels_gpt.rng import reply_seed
from niels_gpt.sampling import Sampling


class ChatModel:
    """A checkpoint ready to answer.

    `checkpoint` has the arguments of `Store.remember_checkpoint`, `environment` what explains a reply's bits
    apart from it, `notice` what a person should know of the model before its first reply.
    """

    def __init__(
        self, options: ChatOptions, *, on_progress: Callable[[int, int], None] | None = None
    ) -> None:
        device = device_named(options.device)
        loaded = load_checkpointed_model(options.checkpoint, device=device)
        self._use_cache = options.use_cache
        self.tokenizer = loaded.tokenizer
        self.template = loaded.template
        self.context_length = loaded.cfg.context
        backend = open_backend(
            loaded, device=device, weights=options.weights, threads=options.threads, on_progress=on_progress
        )
        self._backend = backend
        self.checkpoint: Mapping[str, Any] = {
            "fingerprint": backend.fingerprint.digest,
            "parts": asdict(backend.fingerprint),
            "config": to_dict(loaded.cfg) if isinstance(loaded.cfg, ModelConfig) else loaded.cfg.to_dict(),
            "step": loaded.step,
            # A relative path would mean another file in another folder.
            "path": str(loaded.path.absolute()),
        }
        self.environment: Mapping[str, object] = backend.environment
        self.decoder = backend.decoder
        self.notice = backend.notice or loaded.notice

    def reply_seed(self, session_seed: int, turn: int, attempt: int) -> int:
        """Return the seed of one reply; see niels_gpt.rng."""
        return reply_seed(session_seed, turn, attempt)

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the token ids of a text, as part of a reply."""
        return tuple(self.tokenizer.encode_ids(text))

    def request(
        self,
        *,
        prompt_ids: tuple[int, ...],
        settings: Settings,
        seed: int,
        forced_ids: tuple[int, ...] = (),
    ) -> GenerationRequest:
        """Return the request for one reply; its first tokens are `forced_ids`, taken instead of drawn.

        Raises:
            ChatError: A setting cannot be used, or the forced ids leave nothing to draw.
        """
        try:
            return GenerationRequest(
                prompt_ids=prompt_ids,
                max_new_tokens=settings.max_new_tokens,
                sampling=Sampling(
                    temperature=settings.temperature,
                    top_k=settings.top_k,
                    top_p=settings.top_p,
                    repetition_penalty=settings.repetition_penalty,
                    min_p=settings.min_p,
                    typical_p=settings.typical_p,
                    frequency_penalty=settings.frequency_penalty,
                    presence_penalty=settings.presence_penalty,
                    logit_bias=settings.logit_bias,
                ),
                seed=seed,
                stop_ids=self.template.stop_ids,
                stop_sequences=(*self.template.stop_sequences, *(text.encode() for text in settings.stop)),
                banned_ids=self.template.banned_ids,
                forced_ids=forced_ids,
                use_cache=self._use_cache,
            )
        except ValueError as error:
            raise ChatError(str(error)) from error

    def close(self) -> None:
        """End the decoder's threads."""
        self._backend.close()


def load_model(options: ChatOptions, *, on_progress: Callable[[int, int], None] | None = None) -> ChatModel:
    """Load the checkpoint; LoadFailed. `on_progress` hears how many kernels are compiled, of how many."""
    try:
        return ChatModel(options, on_progress=on_progress)
    except NielsGptError as error:
        raise LoadFailed(str(error)) from error
