"""The methods that users of the original project call on a model, as thin delegates.

The code they call is a layer up (`generation/language_model.py`) or needs the registry of all models
(`model/pretrained.py`, `model/loading.py`), so it is looked up when a method is called: a model is weights
and a forward pass, and its module imports neither.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from niels_gpt.text.tokenizer import Tokenizer


class ModelMethods:
    """`generate`, `generate_text`, `generate_batch`, `generate_stream`, `save_pretrained`, `from_pretrained`.

    `generation.language_model.LanguageModel` documents the keywords of the first four.
    """

    tokenizer: Tokenizer | None = None
    """The model's tokenizer; None stands for bytes."""

    def generate(  # noqa: PLR0917 - the documented signature
        self,
        idx: Tensor,
        max_new_tokens: int = 100,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        repetition_penalty: float = 1.0,
        num_return_sequences: int = 1,
        do_sample: bool = True,  # noqa: FBT001, FBT002 - the documented signature
        stream: bool = False,  # noqa: FBT001, FBT002 - the documented signature
        eos_token_id: int | None = None,
        pad_token_id: int | None = None,
        *,
        generator: torch.Generator | None = None,
        **more: Any,
    ) -> Tensor | Iterator[Tensor]:
        """Continue ids (B, t) int64; see `LanguageModel.generate`."""
        return self._language_model().generate(
            idx,
            max_new_tokens,
            temperature,
            top_k,
            top_p,
            repetition_penalty,
            num_return_sequences,
            do_sample,
            stream,
            eos_token_id,
            pad_token_id,
            generator=generator,
            **more,
        )

    def generate_text(self, prompt: str, max_new_tokens: int = 100, **kwargs: Any) -> str:
        """Continue a text; see `LanguageModel.generate_text`."""
        return self._language_model().generate_text(prompt, max_new_tokens, **kwargs)

    def generate_batch(self, prompts: list[str], max_new_tokens: int = 100, **kwargs: Any) -> list[str]:
        """Continue texts together; see `LanguageModel.generate_batch`."""
        return self._language_model().generate_batch(prompts, max_new_tokens, **kwargs)

    def generate_stream(self, prompt: str, max_new_tokens: int = 100, **kwargs: Any) -> Iterator[str]:
        """Yield a continuation as it is generated; see `LanguageModel.generate_stream`."""
        return self._language_model().generate_stream(prompt, max_new_tokens, **kwargs)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write the model into a directory; see `niels_gpt.model.pretrained.save_pretrained`."""
        module = importlib.import_module("niels_gpt.model.pretrained")
        module.save_pretrained(self, directory, tokenizer=self.tokenizer)

    @classmethod
    def from_pretrained(cls, directory: str | Path, device: str = "auto") -> Self:
        """Load a model of this class; see `niels_gpt.model.loading.from_pretrained`."""
        return importlib.import_module("niels_gpt.model.loading").from_pretrained(
            directory, device=device, kind=cls
        )

    def _language_model(self) -> Any:
        module = importlib.import_module("niels_gpt.generation.language_model")
        return module.LanguageModel(self, self.tokenizer)
