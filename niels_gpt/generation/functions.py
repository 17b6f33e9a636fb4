"""Generation over ids in batches, as plain functions of a model: for those who bring their own loop.

The functions of the text generation guide under its names. Where `generation.reference` has a function of the
same name with other parameters, that one continues a text with a byte model, this one a batch of ids with any
model. Two things differ from the guide's letter: every row has a generator of its own, so that its tokens do
not depend on the rows beside it, and a row that has met the end token is filled up with it.

B rows, t tokens at hand, m new tokens, V vocabulary.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from niels_gpt.model.checkpoint import CheckpointError
from niels_gpt.model.gpt import GPT
from niels_gpt.model.loading import load_model
from niels_gpt.model.registry import Model
from niels_gpt.sampling import nucleus_sampling, temperature_scaled_softmax
from niels_gpt.text.tokenizer import Tokenizer

__all__ = [
    "generate_from_text",
    "generate_text",
    "load_model_from_checkpoint",
    "nucleus_sampling",
    "sample_next_token",
    "temperature_scaled_softmax",
]


def sample_next_token(
    logits: Tensor,
    temperature: float = 1.0,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw one id (B,) for each row of logits (B, V); ValueError for settings out of range."""
    probs = temperature_scaled_softmax(logits, temperature)
    if top_p is not None:
        probs = nucleus_sampling(probs, top_p)
    return torch.multinomial(probs, num_samples=1, generator=generator).squeeze(-1)


def generate_text(  # noqa: PLR0917 - the documented signature
    model: Model,
    prompt_tokens: Tensor,
    max_new_tokens: int = 100,
    temperature: float = 1.0,
    top_p: float | None = None,
    eos_token_id: int | None = None,
    device: str = "cpu",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Continue ids (B, t); returns (B, t + m) on `device`, to which the model is moved.

    Rows get their seeds from `generator`, or from torch's global one. Ends when every row has met the end
    token. Temperature 0 is greedy. Raises ValueError for an empty prompt or settings out of range.
    """
    found = model.to(device).generate(
        prompt_tokens.to(device),
        max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        eos_token_id=eos_token_id,
        generator=generator,
    )
    return cast("Tensor", found)


def generate_from_text(model: Model, tokenizer: Tokenizer, prompt_text: str, **kwargs: Any) -> str:
    """Continue a text with `generate_text`; returns prompt and continuation."""
    ids = tokenizer.encode(prompt_text)
    return tokenizer.decode(generate_text(model, ids[None], **kwargs)[0])


def load_model_from_checkpoint(  # noqa: PLR0917 - the documented signature
    checkpoint_path: str,
    vocab_size: int,
    context_length: int,
    d_model: int,
    num_layers: int,
    num_heads: int,
    d_ff: int,
    rope_theta: float = 10000.0,
    device: str = "cpu",
) -> GPT:
    """Load a checkpoint of known sizes; CheckpointError (a ValueError) lists those that differ."""
    loaded = load_model(checkpoint_path, device=device)
    cfg = loaded.own_cfg
    said = {
        "vocab_size": (vocab_size, cfg.V),
        "context_length": (context_length, cfg.T),
        "d_model": (d_model, cfg.C),
        "num_layers": (num_layers, cfg.L),
        "num_heads": (num_heads, cfg.H),
        "d_ff": (d_ff, cfg.d_ff),
        "rope_theta": (rope_theta, cfg.rope_theta),
    }
    wrong = [f"{name} is {given!r}, stored {held!r}" for name, (given, held) in said.items() if given != held]
    if wrong:
        raise CheckpointError(f"{checkpoint_path!r} has other sizes: {'; '.join(wrong)}")
    model = loaded.gpt
    model.tokenizer = loaded.tokenizer
    return model
