"""Generate over batches of ids, as plain functions of any module: the text generation guide's names.

`generation.reference` has functions of the same names with other parameters: those continue a text with a
byte model, these a batch of ids with any module that maps ids (B, t) to logits (B, t, V). Two things differ
from the guide: every row has its own generator, so that its tokens do not depend on the other rows, and a row
that has reached the end token is padded with it.

B rows, t tokens at hand, m new tokens, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from niels_gpt.generation.language_model import LanguageModel
from niels_gpt.model.checkpoint import CheckpointError
from niels_gpt.model.config import ModelConfig
from niels_gpt.model.gpt import GPT
from niels_gpt.model.loading import load_model, read_checkpoint
from niels_gpt.model.registry import model_of_state
from niels_gpt.model.state import fitted_state, transformer_lm_state
from niels_gpt.sampling import nucleus_sampling, temperature_scaled_softmax
from niels_gpt.text.tokenizer import IdTokenizer, Tokenizer

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
    model: nn.Module,
    prompt_tokens: Tensor,
    max_new_tokens: int = 100,
    temperature: float = 1.0,
    top_p: float | None = None,
    eos_token_id: int | None = None,
    device: str = "cpu",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Continue ids (B, t); return (B, t + m) on `device`, to which the model is moved.

    Generation ends when every row has reached the end token. Temperature 0 is greedy. A model of niels_gpt
    keeps what it has read; any other module reads the whole sequence for each token, or its last
    `context_length` tokens where it has such an attribute.

    Args:
        model: Maps ids (B, t) int64 to logits (B, t, V).
        prompt_tokens: Ids (B, t) int64.
        max_new_tokens: The most tokens of each row.
        temperature: Of the sampling.
        top_p: Keep the likeliest tokens that sum to it; None keeps all.
        eos_token_id: The end token, if there is one.
        device: Where the model runs.
        generator: Gives each row its seed; None: torch's global generator.

    Raises:
        ValueError: The prompt is empty, or a setting is out of range.

    """
    found = LanguageModel(model.to(device)).generate(
        prompt_tokens.to(device),
        max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        eos_token_id=eos_token_id,
        generator=generator,
    )
    return cast("Tensor", found)


def generate_from_text(model: nn.Module, tokenizer: Tokenizer, prompt_text: str, **kwargs: Any) -> str:
    """Continue a text with `generate_text`; return prompt and continuation."""
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
    file = Path(checkpoint_path)
    content = read_checkpoint(file) if file.is_file() else {"model_state": None}
    if "model_state" not in content:  # a TransformerLM, which knows its sizes only from here
        cfg = ModelConfig(
            V=vocab_size, T=context_length, C=d_model, L=num_layers, H=num_heads, d_ff=d_ff,
            rope_theta=rope_theta, dropout=0.0, norm="rmsnorm", mlp="swiglu", tie_embeddings=False,
        )  # fmt: skip
        state = fitted_state(cfg, transformer_lm_state(content, checkpoint_path), checkpoint_path)
        model = cast("GPT", model_of_state(cfg, state).to(device))
        model.tokenizer = IdTokenizer(vocab_size)
        return model
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
