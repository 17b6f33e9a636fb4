"""Tokenizers for the tests of text: bytes, and a small BPE whose training text spells its control tokens."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from niels_gpt.text.bpe import CONTROL_TOKENS, BPETokenizer, train_bpe
from niels_gpt.text.tokenizer import ByteTokenizer, Tokenizer

# The same examples in every run, and no verdict about how busy the machine is.
settings.register_profile(
    "repeatable", database=None, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("repeatable")

TRAINING_TEXT = (
    "niels trains a tiny model. the model reads tokens and writes tokens; the tokens are bytes. "
    "the temperature is 0.9 and top-k is 50. it's naïve — but it works: 日本語, 🙂, tabs\tand\nnewlines. "
) * 20 + "".join(CONTROL_TOKENS.values()) * 50


@pytest.fixture(scope="session")
def bpe() -> BPETokenizer:
    return train_bpe([TRAINING_TEXT], 420)


@pytest.fixture(scope="session", params=["bytes", "bpe"])
def tokenizer(request: pytest.FixtureRequest, bpe: BPETokenizer) -> Tokenizer:
    return ByteTokenizer() if request.param == "bytes" else bpe
