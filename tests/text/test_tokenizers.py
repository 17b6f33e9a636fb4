"""What every tokenizer keeps: any text comes back, in ordinary ids, and its bytes are the text's."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from niels_gpt.text import tokenizer as byte_functions
from niels_gpt.text.bpe import CONTROL_TOKENS, BPETokenizer
from niels_gpt.text.load import tokenizer_from_json
from niels_gpt.text.tokenizer import ByteTokenizer, Tokenizer, TokenizerError

SPICE = [
    *CONTROL_TOKENS.values(),
    "<|",
    "|>",
    "eot",
    "<|endoftext|>",
    "\nassistant: ",
    "\r\n",
    "\0",
    "Ġ",
    "é",
    "🙂",
]
TEXTS = st.lists(st.one_of(st.sampled_from(SPICE), st.text()), max_size=8).map("".join)


@given(text=TEXTS)
def test_any_text_comes_back_from_its_ids(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode_ids(text)) == text


@given(text=TEXTS)
def test_the_bytes_of_the_ids_are_the_bytes_of_the_text(tokenizer: Tokenizer, text: str) -> None:
    assert b"".join(map(tokenizer.token_bytes, tokenizer.encode_ids(text))) == text.encode()


@given(text=TEXTS)
def test_no_text_reaches_a_control_id(tokenizer: Tokenizer, text: str) -> None:
    assert not set(tokenizer.encode_ids(text)) & set(tokenizer.special_token_ids().values())


def test_every_control_string_reaches_its_id_once_the_guard_is_off(bpe: BPETokenizer) -> None:
    unguarded = BPETokenizer.from_json(bpe.to_json())
    unguarded._pipeline.encode_special_tokens = False
    for name, token in CONTROL_TOKENS.items():
        assert bpe.special_token_ids()[name] in unguarded.encode_ids(f"a {token} b")


@given(text=TEXTS)
def test_the_tensor_holds_the_same_ids(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert ids.dtype == torch.int64
    assert ids.tolist() == tokenizer.encode_ids(text)
    assert tokenizer.decode(ids) == text


@given(data=st.data())
def test_any_ids_decode_to_their_bytes_with_replacement(tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1)))
    expected = b"".join(map(tokenizer.token_bytes, ids)).decode("utf-8", errors="replace")
    assert tokenizer.decode(ids) == expected


def test_every_byte_is_one_piece(tokenizer: Tokenizer) -> None:
    pieces = {tokenizer.token_bytes(token_id) for token_id in range(tokenizer.vocab_size)}
    assert pieces >= {bytes((byte,)) for byte in range(256)}


@pytest.mark.parametrize("outside", [-1, 1_000_000])
def test_an_unknown_id_is_refused(tokenizer: Tokenizer, outside: int) -> None:
    with pytest.raises(TokenizerError, match=str(outside)):
        tokenizer.decode([outside])
    with pytest.raises(TokenizerError, match=str(outside)):
        tokenizer.token_bytes(outside)


def test_half_a_surrogate_pair_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(TokenizerError, match="position 2"):
        tokenizer.encode_ids("ab\ud800")


def test_what_travels_in_a_checkpoint_makes_an_equal_tokenizer(tokenizer: Tokenizer) -> None:
    again = tokenizer_from_json(tokenizer.to_json())
    assert type(again) is type(tokenizer)
    assert again.to_json() == tokenizer.to_json()
    assert again.encode_ids("niels reads tokens") == tokenizer.encode_ids("niels reads tokens")


def test_the_byte_functions_speak_utf8_on_the_cpu() -> None:
    ids = byte_functions.encode("é!")
    assert ids.tolist() == [0xC3, 0xA9, 0x21]
    assert ids.dtype == torch.int64
    assert ids.device.type == "cpu"
    assert byte_functions.decode(ids) == "é!"
    assert byte_functions.decode(torch.tensor([0xC3, 0x21])) == "�!"
    assert byte_functions.encode("").shape == (0,)


def test_bytes_have_no_control_tokens() -> None:
    assert ByteTokenizer().special_token_ids() == {}


@pytest.mark.parametrize("shape", [(), (1, 2)])
def test_ids_that_are_not_a_row_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"shape \(.*expected \(n,\)"):
        byte_functions.decode(torch.full(shape, 65))
