"""The models that are timed, with random weights, and what a step of theirs has to read and to compute.

Weights are random but matter: norms and biases are off their neutral values, so that a path that forgets
one of them gives other logits. Imports torch only where a model is made.

V vocabulary, T context window, C width, L layers, F MLP width.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from niels_gpt.kernels import WeightForm
from niels_gpt.model.config import ModelConfig

if TYPE_CHECKING:
    from niels_gpt.model.gpt import GPT
    from niels_gpt.text.tokenizer import Tokenizer

SHAPES = {
    "3.2M": ModelConfig(V=256, T=256, C=256, L=4, H=4, d_ff=1024),
    "27M": ModelConfig(V=4096, T=1024, C=512, L=8, H=8, d_ff=2048),
    "tiny": ModelConfig(V=64, T=256, C=32, L=2, H=2, d_ff=64),
}
"""By name; "tiny" is for trying the commands."""


def random_model(cfg: ModelConfig) -> GPT:
    """The same model in every process: its weights follow from the config alone."""
    import torch  # noqa: PLC0415 - seconds, which a process that only measures limits need not wait

    from niels_gpt.model.gpt import GPT  # noqa: PLC0415

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT(cfg).eval()
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return model


def tokenizer_for(cfg: ModelConfig) -> Tokenizer:
    """V ids, each one letter: decoding costs what it costs in a chat."""
    return letters(cfg.V)


def letters(V: int) -> Tokenizer:
    """V ids, each one letter."""
    from niels_gpt.text.tokenizer import ByteTokenizer  # noqa: PLC0415

    class Letters(ByteTokenizer):
        @property
        def vocab_size(self) -> int:
            return V

        def token_bytes(self, token_id: int) -> bytes:
            return bytes((97 + token_id % 26,))

    return Letters()


def random_prompts(cfg: ModelConfig, *, streams: int, length: int) -> list[list[int]]:
    """As many prompts of `length` ids as there are streams; the same ones at every call."""
    chance = random.Random(length)
    return [[chance.randrange(cfg.V) for _ in range(length)] for _ in range(streams)]


def matrix_weights(cfg: ModelConfig) -> int:
    """Weights that are multiplied for every token: the linear layers and the head."""
    products = 2 if cfg.mlp == "gelu" else 3
    return cfg.L * (4 * cfg.C * cfg.C + products * cfg.C * cfg.d_ff) + cfg.V * cfg.C


def step_bytes(cfg: ModelConfig, *, streams: int, positions: float, form: WeightForm = "float32") -> int:
    """Bytes that a step cannot avoid to read: all weights once, each stream's keys and values once."""
    states = 2 * cfg.L * cfg.C * positions * streams
    return int(matrix_weights(cfg) * (4 if form == "float32" else 1) + 4 * states)


def step_operations(cfg: ModelConfig, *, streams: int, positions: float) -> int:
    """Floating-point operations of a step's products, two a multiply-add: weights, scores and values."""
    return int(2 * streams * (matrix_weights(cfg) + 2 * cfg.L * cfg.C * positions))
