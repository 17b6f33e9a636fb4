"""Tokenizers of other projects are held to the contract, or refused in one line."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from niels_gpt.text.bpe import BYTE_OF_LETTER
from niels_gpt.text.bpe_spec import spec_of
from niels_gpt.text.gguf_vocabulary import gguf_spec
from niels_gpt.text.hf_bpe import HFBPETokenizer, from_stored
from niels_gpt.text.load import tokenizer_from_json
from niels_gpt.text.safe_pickle import EncodingState, read_pickle
from niels_gpt.text.split_patterns import GPT4O, LLAMA3, QWEN2, pattern_fault
from niels_gpt.text.tiktoken_ranks import nanochat_spec
from niels_gpt.text.tokenizer import TokenizerError

TEXTS = ["the cat  sat on the mat, the cat sat on the hat", "it's 1234 items", " the the cat\n\n\tthe"]
SPICE = ["<|end|>", "<think>", "</think>", "<s>", "<0x41>", "\u2581", "  the  tree", "\n\n", "é🙂", "a\x00b"]
ANY_TEXT = st.lists(st.one_of(st.sampled_from(SPICE), st.text(max_size=8)), max_size=5).map("".join)


def byte_level(pre: Any = None) -> Tokenizer:
    pipeline = Tokenizer(models.BPE())
    pipeline.pre_tokenizer = pre or pre_tokenizers.ByteLevel(add_prefix_space=False)
    pipeline.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=["<|end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    pipeline.train_from_iterator(TEXTS * 3, trainer)
    pipeline.add_tokens([AddedToken(text, normalized=False) for text in ("<think>", "</think>")])
    return pipeline


def spaced() -> Tokenizer:
    """As Llama 2's: a piece for every byte, blanks as a letter, one in front."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=360, special_tokens=["<unk>", "<s>", *(f"<0x{n:02X}>" for n in range(256))],
        show_progress=False,
    )  # fmt: skip
    trained.train_from_iterator(TEXTS * 3, trainer)
    stored = json.loads(trained.to_str())
    stored["added_tokens"] = [
        token for token in stored["added_tokens"] if not token["content"].startswith("<0x")
    ]
    stored["model"] |= {"byte_fallback": True, "unk_token": "<unk>", "fuse_unk": True}
    parts = [
        decoders.Replace("\u2581", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ]
    made = Tokenizer.from_str(json.dumps(stored))
    made.decoder = decoders.Sequence(parts)
    return made


def ours(pipeline: Tokenizer, **changes: Any) -> HFBPETokenizer:
    return HFBPETokenizer(spec_of(json.loads(pipeline.to_str()) | changes))


KINDS = {
    "gpt2": byte_level(),
    "llama3": byte_level(
        pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
             pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    ),
    "spaced": spaced(),
}  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> tuple[Tokenizer, HFBPETokenizer]:
    return KINDS[request.param], ours(KINDS[request.param])


@given(text=ANY_TEXT)
def test_the_pieces_of_any_text_are_its_bytes(kind: tuple[Tokenizer, HFBPETokenizer], text: str) -> None:
    _, tokenizer = kind
    assert b"".join(map(tokenizer.token_bytes, tokenizer.encode_ids(text))) == text.encode()


@given(text=ANY_TEXT)
def test_no_text_reaches_an_added_token(kind: tuple[Tokenizer, HFBPETokenizer], text: str) -> None:
    _, tokenizer = kind
    assert not set(tokenizer.encode_ids(text)) & {*tokenizer.spec.special, *tokenizer.spec.visible}


@given(text=ANY_TEXT)
def test_a_guarded_text_in_a_rendered_prompt_reaches_none_either(
    kind: tuple[Tokenizer, HFBPETokenizer], text: str
) -> None:
    _, tokenizer = kind
    guard = tokenizer.guard_for([text])
    ids = tokenizer.rendered_ids(tokenizer.guarded(text, guard), guard)
    assert not set(ids) & {*tokenizer.spec.special, *tokenizer.spec.visible}


@pytest.mark.parametrize("text", ["the cat sat", "it's 12345  the\n mat", "<|end|>the<think>x", "é 日本 the"])
def test_a_rendered_prompt_has_the_ids_of_the_library(
    kind: tuple[Tokenizer, HFBPETokenizer], text: str
) -> None:
    reference, tokenizer = kind
    assert tokenizer.rendered_ids(text, tokenizer.guard_for([text])) == reference.encode(text).ids


def test_the_stored_form_makes_the_same_tokenizer(kind: tuple[Tokenizer, HFBPETokenizer]) -> None:
    _, tokenizer = kind
    again = tokenizer_from_json(tokenizer.to_json())
    assert again.encode_ids("the cat  é") == tokenizer.encode_ids("the cat  é")
    assert again.to_json() == tokenizer.to_json()


def test_dropout_is_taken_off() -> None:
    stored = json.loads(KINDS["gpt2"].to_str())
    stored["model"]["dropout"] = 0.5
    tokenizer = HFBPETokenizer(spec_of(stored))
    assert len({tuple(tokenizer.encode_ids("the cat sat on the mat")) for _ in range(20)}) == 1


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (None, "no ByteLevel pre-tokenizer"),
        ({"type": "WhitespaceSplit"}, "'WhitespaceSplit' drops or changes text"),
        (
            {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"String": " "}, "behavior": "Removed", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]},
            "removes what it splits at",
        ),
        (
            {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": "(a+)+"}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]},
            "repeats a group",
        ),
        (3, "not a tokenizer"),
        ([], "not a tokenizer"),
    ],
)  # fmt: skip
def test_a_pre_tokenizer_that_loses_text_is_refused(part: Any, said: str) -> None:
    with pytest.raises(TokenizerError, match=said) as raised:
        ours(KINDS["gpt2"], pre_tokenizer=part)
    assert "\n" not in str(raised.value)


def test_a_blank_in_front_is_taken_off_a_text_and_kept_in_a_prompt() -> None:
    reference = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True))
    tokenizer = ours(reference)
    assert tokenizer.decode(tokenizer.encode_ids("the cat")) == "the cat"
    assert tokenizer.rendered_ids("the cat", "\ufdd0") == reference.encode("the cat").ids


@pytest.mark.parametrize("changes", [{"added_tokens": 3}, {"model": []}, {"model": {"type": "WordPiece"}}])
def test_json_of_the_wrong_types_is_one_line(changes: dict[str, Any]) -> None:
    with pytest.raises(TokenizerError, match="not a tokenizer"):
        ours(KINDS["gpt2"], **changes)


def test_a_tokenizer_that_lacks_single_bytes_is_taken_and_such_a_text_refused() -> None:
    stored = json.loads(KINDS["gpt2"].to_str())
    letter = next(letter for letter, byte in BYTE_OF_LETTER.items() if byte == 0x04)
    number = stored["model"]["vocab"].pop(letter)
    stored["model"]["vocab"]["unused"] = number
    tokenizer = HFBPETokenizer(spec_of(stored))
    assert tokenizer.decode(tokenizer.encode_ids("the cat")) == "the cat"
    with pytest.raises(TokenizerError, match=r"holds '\\x04'.*no piece for its byte 0x04"):
        tokenizer.encode_ids("a\x04b")


def test_a_token_that_swallows_blanks_does_so_in_a_prompt_alone() -> None:
    reference = byte_level()
    reference.add_special_tokens([AddedToken("<|user|>", rstrip=True, normalized=False)])
    tokenizer = ours(reference)
    text = "<|user|>\n the cat"
    assert tokenizer.rendered_ids(text, "\ufdd0") == reference.encode(text).ids
    assert tokenizer.decode(tokenizer.encode_ids(text)) == text


def test_a_vocabulary_of_gguf_is_the_tokenizer_that_it_came_from() -> None:
    reference = KINDS["llama3"]
    stored = json.loads(reference.to_str())
    vocab = reference.get_vocab(with_added_tokens=True)
    pieces = sorted(vocab, key=vocab.__getitem__)
    types = [3 if piece == "<|end|>" else 4 if "think>" in piece else 1 for piece in pieces]
    metadata = {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [" ".join(merge) for merge in stored["model"]["merges"]],
    }  # fmt: skip
    tokenizer = HFBPETokenizer(gguf_spec(metadata))
    for text in [*TEXTS, "<think>é 123456</think>", "x  \n\n y"]:
        assert tokenizer.rendered_ids(text, "\ufdd0") == reference.encode(text).ids


def test_a_sentencepiece_vocabulary_merges_by_its_scores() -> None:
    reference = KINDS["spaced"]
    stored = json.loads(reference.to_str())
    vocab = reference.get_vocab(with_added_tokens=True)
    pieces = sorted(vocab, key=vocab.__getitem__)
    ranks = {"".join(merge): -float(n) for n, merge in enumerate(stored["model"]["merges"])}
    metadata = {
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.scores": [ranks.get(piece, -1e6) for piece in pieces],
        "tokenizer.ggml.token_type": [
            2 if p == "<unk>" else 3 if p == "<s>" else 6 if p.startswith("<0x") else 1 for p in pieces
        ],
        "tokenizer.ggml.bos_token_id": 1,
    }  # fmt: skip
    spec = gguf_spec(metadata)
    tokenizer = HFBPETokenizer(spec)
    assert list(spec.begin) == [1]
    for text in [*TEXTS, "the é 日"]:
        assert tokenizer.rendered_ids(text, "\ufdd0") == reference.encode(text).ids


@pytest.mark.parametrize("pattern", [LLAMA3, QWEN2, GPT4O, r"\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s+"])
def test_the_patterns_in_use_are_trusted(pattern: str) -> None:
    assert pattern_fault(pattern) is None


@pytest.mark.parametrize("pattern", ["(a|a)*b", "(?:a+){2,}", "(x+x+)+y", "a*a*a*a*a*a*b", "x" * 3000])
def test_a_pattern_that_may_take_for_ages_is_not(pattern: str) -> None:
    assert pattern_fault(pattern) is not None


class Evil:
    def __reduce__(self) -> Any:
        return print, ("run",)


def test_a_pickle_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"itos": Evil()}))
    with pytest.raises(TokenizerError, match=r"it asks for builtins\.print"):
        read_pickle(tmp_path / "evil.pkl")
    assert capsys.readouterr().out == ""


def test_ranks_give_the_merges_that_made_them() -> None:
    reference = byte_level()
    stored = json.loads(reference.to_str())
    raw = {
        piece: bytes(BYTE_OF_LETTER[c] for c in piece)
        for piece in stored["model"]["vocab"]
        if piece != "<|end|>"
    }
    order = sorted(raw, key=lambda piece: stored["model"]["vocab"][piece])
    state = EncodingState()
    state.state = {
        "pat_str": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        "mergeable_ranks": {raw[piece]: n for n, piece in enumerate(order)},
        "special_tokens": {"<|bos|>": len(order)},
    }
    tokenizer = HFBPETokenizer(nanochat_spec(state))
    for text in TEXTS:
        expected = [order.index(piece) for piece in reference.encode(text).tokens]
        assert tokenizer.encode_ids(text) == expected


def test_what_is_stored_of_something_else_is_one_line() -> None:
    for text in ('{"niels_gpt": "bpe"}', '{"niels_gpt": "byte-level", "tokenizer": 3}', "[]", "{"):
        with pytest.raises(TokenizerError):
            from_stored(text)
