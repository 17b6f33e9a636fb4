"""Training and storing the BPE: repeatable, safe against forged files, and clear about what it cannot do."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from niels_gpt.text.bpe import CONTROL_TOKENS, BPETokenizer, main, train_bpe
from niels_gpt.text.tokenizer import TokenizerError

TEXT = "the model reads tokens, the model writes tokens. " * 10


def test_the_same_text_trains_the_same_json(bpe: BPETokenizer) -> None:
    assert train_bpe([TEXT], 300).to_json() == train_bpe(iter([TEXT]), 300).to_json()


def test_training_reaches_the_size_that_was_asked_for() -> None:
    assert train_bpe([TEXT], 270).vocab_size == 270


def test_a_text_without_more_pairs_gives_fewer_pieces() -> None:
    assert train_bpe(["abab"], 1000).vocab_size < 270


def test_a_vocabulary_without_room_for_the_bytes_is_refused() -> None:
    with pytest.raises(TokenizerError, match="259"):
        train_bpe([TEXT], 259)


def test_frequent_words_become_one_piece_and_digits_stay_alone() -> None:
    tokenizer = train_bpe([TEXT + " 512" * 100], 400)
    assert b" tokens" in [tokenizer.token_bytes(i) for i in tokenizer.encode_ids(TEXT)]
    assert [tokenizer.token_bytes(i) for i in tokenizer.encode_ids("512")] == [b"5", b"1", b"2"]


def test_control_ids_have_no_bytes_and_decode_to_nothing(bpe: BPETokenizer) -> None:
    control = bpe.special_token_ids()
    assert set(control) == {"sys", "usr", "asst", "eot"}
    assert len(set(control.values())) == 4
    assert bpe.decode([control["sys"], *bpe.encode_ids("hi"), control["eot"]]) == "hi"


def test_the_json_travels_in_a_checkpoint_that_is_loaded_with_weights_only(bpe: BPETokenizer) -> None:
    file = io.BytesIO()
    torch.save({"tokenizer": bpe.to_json()}, file)
    file.seek(0)
    assert torch.load(file, weights_only=True)["tokenizer"] == bpe.to_json()


def forge_a_merge(stored: dict[str, Any]) -> None:
    stored["model"]["merges"].append(["<|eo", "t|>"])
    for piece in ("<|eo", "t|>"):
        stored["model"]["vocab"][piece] = len(stored["model"]["vocab"])


def lose_a_byte(stored: dict[str, Any]) -> None:
    vocab = stored["model"]["vocab"]
    vocab["two letters"] = vocab.pop("Q")


def add_a_fifth_control_token(stored: dict[str, Any]) -> None:
    stored["added_tokens"].append(stored["added_tokens"][0] | {"id": 420, "content": "<|tool|>"})


def unmark_a_control_token(stored: dict[str, Any]) -> None:
    stored["added_tokens"][3]["special"] = False


def lowercase_everything(stored: dict[str, Any]) -> None:
    stored["normalizer"] = {"type": "Lowercase"}


def put_a_space_in_front(stored: dict[str, Any]) -> None:
    stored["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = True


def drop_merges_at_random(stored: dict[str, Any]) -> None:
    stored["model"]["dropout"] = 0.5


FORGERIES: list[tuple[Callable[[dict[str, Any]], None], str]] = [
    (forge_a_merge, "merge spells"),
    (lose_a_byte, "lacks 1 single bytes"),
    (add_a_fifth_control_token, "added tokens"),
    (unmark_a_control_token, "added tokens"),
    (lowercase_everything, "normalizer"),
    (put_a_space_in_front, "pre_tokenizer"),
    (drop_merges_at_random, "dropout"),
]


@pytest.mark.parametrize(("forge", "named"), FORGERIES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_stored_tokenizer_that_would_bend_text_is_refused_by_name(
    bpe: BPETokenizer, forge: Callable[[dict[str, Any]], None], named: str
) -> None:
    stored = json.loads(bpe.to_json())
    forge(stored)
    with pytest.raises(TokenizerError, match=named):
        BPETokenizer.from_json(json.dumps(stored))


@pytest.mark.parametrize("text", ["", "{}", "not json", '{"version": "1.0"'])
def test_what_is_no_tokenizer_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(TokenizerError, match="not a stored tokenizer"):
        BPETokenizer.from_json(text)


def test_the_command_writes_a_tokenizer_that_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "text.txt", tmp_path / "tokenizer.json"
    source.write_text(TEXT, encoding="utf-8")
    assert main(["--text", str(source), str(source), "--vocab-size", "280", "--out", str(out)]) == 0
    assert BPETokenizer.from_json(out.read_text(encoding="utf-8")).vocab_size == 280
    assert "280 pieces" in capsys.readouterr().out


def test_the_command_says_when_the_text_gave_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "text.txt"
    source.write_text("abab", encoding="utf-8")
    assert main(["--text", str(source), "--out", str(tmp_path / "tokenizer.json")]) == 0
    assert "2048 asked for" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--text", "missing.txt", "--out", "t.json"], "missing.txt"),
        (
            ["--text", "broken.txt", "--out", "t.json"],
            "broken.txt is not UTF-8 text: line 1 has the byte 0xff",
        ),
        (["--text", "good.txt", "--vocab-size", "3", "--out", "t.json"], "vocabulary of 3"),
        (["--text", "good.txt", "--out", "no/such/folder/t.json"], "no/such/folder"),
    ],
)
def test_a_failing_command_says_why_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    named: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "broken.txt").write_bytes(b"a\xff")
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert named in said
    assert said.count("\n") == 1


def test_control_tokens_are_spelled_as_the_checkpoints_expect() -> None:
    assert list(CONTROL_TOKENS.values()) == ["<|sys|>", "<|usr|>", "<|asst|>", "<|eot|>"]
