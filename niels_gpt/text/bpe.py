"""Byte-level BPE with the four control tokens of a chat, trained and run by Hugging Face `tokenizers`.

The pieces are made of bytes, so nothing is ever unknown and every text round-trips. Control tokens exist as
ids only: no text encodes to them, whatever it spells. Digits stand alone, because a small model sees few
numbers: with single digits it can copy any number of the user, and no merge is spent on one. `python -m
niels_gpt.text.bpe --text FILE... --vocab-size N --out tokenizer.json` trains one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as HFTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

from niels_gpt import program
from niels_gpt.atomic_io import write_text
from niels_gpt.text.files import decoded
from niels_gpt.text.tokenizer import PieceTokenizer, TokenizerError, utf8

CONTROL_TOKENS = {"sys": "<|sys|>", "usr": "<|usr|>", "asst": "<|asst|>", "eot": "<|eot|>"}
SMALLEST_VOCAB = 256 + len(CONTROL_TOKENS)


def _pipeline() -> HFTokenizer:
    pipeline = HFTokenizer(models.BPE())
    pipeline.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    pipeline.decoder = decoders.ByteLevel()
    return pipeline


def _byte_of_letter() -> dict[str, int]:
    """Byte of each letter of the alphabet: printable Latin-1 is itself, the rest counts from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


BYTE_OF_LETTER = _byte_of_letter()


class BPETokenizer(PieceTokenizer):
    """A trained byte-level BPE. Make one with `train_bpe` or `from_json`."""

    def __init__(self, pipeline: HFTokenizer, json_text: str) -> None:
        self._json = json_text
        vocab = pipeline.get_vocab(with_added_tokens=True)
        self._control = {name: vocab[token] for name, token in CONTROL_TOKENS.items()}
        control_ids = set(self._control.values())
        pieces = [
            b"" if token_id in control_ids else bytes(BYTE_OF_LETTER[letter] for letter in piece)
            for piece, token_id in sorted(vocab.items(), key=lambda item: item[1])
        ]
        super().__init__(pipeline, pieces)

    @classmethod
    def from_json(cls, json_text: str) -> BPETokenizer:
        """Tokenizer from what `to_json` gave; for anything else a `TokenizerError` says what is wrong."""
        try:
            pipeline = HFTokenizer.from_str(json_text)
        except Exception as error:  # the library raises nothing narrower
            raise TokenizerError(
                f"not a stored tokenizer: {error}; expected the JSON that niels_gpt.text.bpe writes"
            ) from error
        fault = _fault(json.loads(pipeline.to_str()))
        if fault:
            raise TokenizerError(
                f"not a tokenizer of niels-gpt: {fault}; train one with python -m niels_gpt.text.bpe"
            )
        return cls(pipeline, json_text)

    def special_token_ids(self) -> dict[str, int]:
        """Control ids by name: "sys", "usr", "asst", "eot"."""
        return dict(self._control)

    def to_json(self) -> str:
        """Return the JSON that a checkpoint stores, byte for byte what it was loaded from."""
        return self._json


def _fault(stored: dict[str, Any]) -> str | None:
    """Name what makes a tokenizer unsafe to use, or give None. `stored`: what this library writes."""
    expected = json.loads(_pipeline().to_str())
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder", "truncation", "padding"):
        if stored[part] != expected[part]:
            return f"its {part} is {json.dumps(stored[part])}, expected {json.dumps(expected[part])}"
    model, model_expected = stored["model"], expected["model"]
    for setting in sorted(model_expected.keys() - {"vocab", "merges"}):
        if model.get(setting) != model_expected[setting]:
            return f"its model has {setting} {model.get(setting)!r}, expected {model_expected[setting]!r}"
    return _vocab_fault(model["vocab"], model["merges"], stored["added_tokens"])


def _vocab_fault(
    vocab: dict[str, int], merges: Sequence[Sequence[str]], added: Sequence[dict[str, Any]]
) -> str | None:
    control = set(CONTROL_TOKENS.values())
    if {token["content"] for token in added if token["special"]} != control or len(added) != len(control):
        return f"its added tokens are {[token['content'] for token in added]!r}, expected {sorted(control)!r}"
    if not control <= vocab.keys() or sorted(vocab.values()) != list(range(len(vocab))):
        return f"its {len(vocab)} ids do not run from 0 without gaps, control tokens included"
    missing = [letter for letter in BYTE_OF_LETTER if letter not in vocab]
    if missing:
        return f"it lacks {len(missing)} single bytes, the first is {BYTE_OF_LETTER[missing[0]]:#04x}"
    # A merge that spells a control token would let a text reach its id.
    forged = [left + right for left, right in merges if left + right in control]
    if forged:
        return f"a merge spells the control token {forged[0]!r}"
    foreign = [piece for piece in vocab.keys() - control if not BYTE_OF_LETTER.keys() >= set(piece)]
    if foreign:
        return f"its piece {foreign[0]!r} is not made of bytes"
    return None


def train_bpe(texts: Iterable[str], vocab_size: int) -> BPETokenizer:
    """Learn pieces from texts of any kind; the same texts give the same JSON bytes.

    `vocab_size` counts the 256 bytes and the control tokens; fewer ids come out when the texts have no more
    pairs that occur twice. Smaller than 260: `TokenizerError`.
    """
    if vocab_size < SMALLEST_VOCAB:
        raise TokenizerError(f"vocabulary of {vocab_size!r} is too small; expected at least {SMALLEST_VOCAB}")
    pipeline = _pipeline()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(CONTROL_TOKENS.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    pipeline.train_from_iterator((utf8(text).decode() for text in texts), trainer)
    return BPETokenizer.from_json(pipeline.to_str())


def _read(path: Path) -> str:
    # Line ends are learned as they are.
    return decoded(path.read_bytes(), str(path))


def main(argv: Sequence[str] | None = None) -> int:
    """Train a tokenizer; 0 when the file is written, 1 with one line on stderr when it is not."""
    return program.run("niels_gpt.text.bpe", lambda: _train(argv), expected=lambda: (ValueError,))


def _train(argv: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m niels_gpt.text.bpe", description="Train a byte-level BPE tokenizer."
    )
    add = parser.add_argument
    add("--text", nargs="+", required=True, type=Path, metavar="FILE", help="UTF-8 text to learn from")
    add("--vocab-size", type=int, default=2048, metavar="N", help="ids in all (default 2048)")
    add("--out", required=True, type=Path, metavar="PATH", help="JSON file to write")
    args = parser.parse_args(argv)
    tokenizer = train_bpe(map(_read, args.text), args.vocab_size)
    write_text(args.out, tokenizer.to_json())
    asked = args.vocab_size
    short = "" if tokenizer.vocab_size == asked else f" ({asked} asked for: the text has no more)"
    print(f"{args.out}: {tokenizer.vocab_size} pieces{short}")
    return 0


if __name__ == "__main__":
    program.run_process(main)
