"""Tokenizers of other projects: made like theirs here, with the library that theirs are made with."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from niels_gpt.text.chat_template import template_for
from niels_gpt.text.hf_bpe import HFBPETokenizer, adopt
from niels_gpt.text.load import tokenizer_from_json
from niels_gpt.text.tokenizer import TokenizerError

END = "<|endoftext|>"


def published(*, byte_level: bool = True) -> str:
    """As GPT-NeoX's: NFC first, an end token, another control token, runs of spaces as tokens."""
    pipeline = Tokenizer(models.BPE())
    pipeline.normalizer = normalizers.NFC()
    pipeline.pre_tokenizer = (
        pre_tokenizers.ByteLevel(add_prefix_space=False) if byte_level else pre_tokenizers.Metaspace()
    )
    pipeline.decoder = decoders.ByteLevel() if byte_level else decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=[END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    pipeline.train_from_iterator(["the cat sat on the mat, the cat sat on the hat"] * 3, trainer)
    pipeline.add_special_tokens(["<|padding|>"])
    pipeline.add_tokens([AddedToken("    ", normalized=False)])
    return pipeline.to_str()


@pytest.fixture(scope="module")
def adopted() -> HFBPETokenizer:
    return adopt(published(), end=END)


@given(text=st.one_of(st.text(), st.sampled_from([END, "a    b", "e\u0301", "<|padding|>x", "the cat"])))
def test_the_pieces_of_a_text_are_its_bytes(adopted: HFBPETokenizer, text: str) -> None:
    pieces = [adopted.token_bytes(token_id) for token_id in adopted.encode_ids(text)]
    assert b"".join(pieces) == text.encode()
    assert adopted.decode(adopted.encode(text)) == text


def test_no_text_becomes_a_control_token(adopted: HFBPETokenizer) -> None:
    control = set(adopted.special_token_ids().values())
    assert len(control) == 2
    assert not control & set(adopted.encode_ids(f"{END} <|padding|>"))


def test_the_stored_form_makes_the_same_tokenizer(adopted: HFBPETokenizer) -> None:
    again = tokenizer_from_json(adopted.to_json())
    assert again.encode_ids("the cat    sat") == adopted.encode_ids("the cat    sat")
    assert again.special_token_ids() == adopted.special_token_ids()


def test_its_replies_end_at_the_next_tag_or_at_its_end_token(adopted: HFBPETokenizer) -> None:
    template = template_for(adopted)
    assert template.name == "transcript"
    assert template.stop_ids == {adopted.special_token_ids()["eot"]}
    assert template.banned_ids == {adopted.special_token_ids()["<|padding|>"]}


@pytest.mark.parametrize(
    ("text", "end", "said"),
    [
        (published(byte_level=False), END, "expected a byte-level BPE"),
        (published(), "<eos>", "end token '<eos>' is none of its control tokens"),
        ("[1]", None, "not a tokenizer"),
        ("half", None, "not a tokenizer"),
    ],
)
def test_what_cannot_be_used_is_said(text: str, end: str | None, said: str) -> None:
    with pytest.raises(TokenizerError, match=said):
        adopt(text, end=end)
