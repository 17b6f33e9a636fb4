"""BPE tokenizers of other projects: byte-level ones, and SentencePiece's with a piece for every byte.

What such a tokenizer does to a text before its pieces (Unicode normalisation, a blank in front) or adds
around them is taken off: here the pieces of a text are exactly its bytes. Its added tokens exist as ids
only, whether it calls them special or not: no text of a user reaches them. `rendered_ids` alone does, for
text that a chat template made, and there the blank in front comes back.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import cached_property
from typing import Any

from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as HFTokenizer

from niels_gpt.text.bpe import BYTE_OF_LETTER
from niels_gpt.text.bpe_spec import LARGEST_VOCABULARY, SPACE, BPESpec, spec_of
from niels_gpt.text.tokenizer import PieceTokenizer, TokenizerError, utf8

KIND_KEY, KIND, SPEC_KIND = "niels_gpt", "byte-level", "bpe"
"""Marks of the stored forms, which a tokenizer of our own does not have."""
LONGEST_PIECE = 65_536
GUARDS = tuple(chr(0xFDD0 + n) for n in range(32))
"""Characters that no text has. One of them inside a control token's text keeps it from being one."""
PROBES = ("  the  tree\n\n\tof  1234567 things, it's  ", "x", " ", "日本語 🙂 é\r\n<|x|>")


_LATIN = dict.fromkeys(range(256), GUARDS[0]) | {
    ord(letter): chr(byte) for letter, byte in BYTE_OF_LETTER.items()
}
"""Turns letters into the characters of their bytes in Latin-1, and those that are no letters into none."""


class HFBPETokenizer(PieceTokenizer):
    """A tokenizer of a `BPESpec`."""

    def __init__(self, spec: BPESpec, *, size: int | None = None, json_text: str | None = None) -> None:
        """Build it.

        Args:
            spec: what it does.
            size: ids in all, where a model has more than its tokenizer; the rest stand for nothing.
            json_text: what `to_json` returns; None: made of the spec.

        Raises:
            TokenizerError: the parts contradict each other, or a text would not come back from its ids.

        """
        self.spec, self._json = spec, json_text
        count = len(spec.pieces)
        if size is not None and size < count:
            raise TokenizerError(
                f"the tokenizer has {count} ids, the model {size}: they do not belong together"
            )
        unused = [n for n, piece in enumerate(spec.pieces) if not piece] + list(range(count, size or 0))
        self.unused_ids = frozenset(unused)
        """Ids that stand for nothing."""
        self._names = {spec.pieces[token_id]: token_id for token_id in spec.special}
        if spec.end is not None:
            self._names["eot"] = self._names.pop(spec.end)
        added = {*spec.special, *spec.visible}
        bytes_of = _bytes_of_letters if spec.alphabet == "bytes" else _bytes_of_spaced
        pieces = [bytes_of(piece) for piece in spec.pieces] + [b""] * len(range(count, size or 0))
        for token_id in (*spec.visible, *spec.runs):
            pieces[token_id] = utf8(
                spec.pieces[token_id].replace(SPACE, " " if spec.alphabet == "spaces" else SPACE)
            )
        for token_id in spec.special:
            pieces[token_id] = b""
        self._model = _model(spec, added)
        present = {piece for token_id, piece in enumerate(pieces) if token_id not in added}
        self._missing = bytes(byte for byte in range(256) if bytes((byte,)) not in present)
        self._byte_ids = {
            piece: token_id
            for token_id, piece in enumerate(pieces)
            if len(piece) == 1 and token_id not in added
        }
        super().__init__(_pipeline(self._model, spec), pieces)
        self._check_probes()

    def special_token_ids(self) -> dict[str, int]:
        """Control ids by their text, the one that ends a text as "eot" where the spec names it."""
        return dict(self._names)

    def encode_ids(self, text: str) -> list[int]:
        """Ids of ordinary pieces, whatever the text spells; `TokenizerError` for a byte without a piece."""
        raw = utf8(text)
        self._refuse_missing(raw)
        if self.spec.alphabet == "bytes":
            return self._pipeline.encode(text, add_special_tokens=False).ids
        ids: list[int] = []
        for n, part in enumerate(text.split(SPACE)):
            if n:  # the letter for a blank, as itself
                ids += [self._byte_ids[bytes((byte,))] for byte in SPACE.encode()]
            ids += self._pipeline.encode(part.replace(" ", SPACE), add_special_tokens=False).ids
        return ids

    def guard_for(self, texts: Iterable[str]) -> str:
        """Return a character that none of the texts has; `TokenizerError` if they have them all."""
        used = set().union(*map(set, texts)) if texts else set()
        for guard in GUARDS:
            if guard not in used:
                return guard
        raise TokenizerError("the messages hold all of Unicode's 32 noncharacters U+FDD0 to U+FDEF")

    def guarded(self, text: str, guard: str, *, visible: bool = True) -> str:
        """Put `guard` into everything in a text that spells a control token.

        Args:
            text: what somebody wrote.
            guard: from `guard_for`.
            visible: whether added tokens that a model may say count too.

        """
        for content in self._control_texts if visible else self._special_texts:
            if content in text:
                text = text.replace(content, content[0] + guard + content[1:])
        return text

    def rendered_ids(self, text: str, guard: str) -> list[int]:
        """Return the ids of a rendered prompt, in which control tokens are their ids.

        Args:
            text: what a template made of guarded messages.
            guard: the character that the messages were guarded with; it is taken out.

        """
        if self._missing:
            plain = text
            for content in self._control_texts:
                plain = plain.replace(content, "")
            self._refuse_missing(utf8(plain.replace(guard, "")))
        pipeline, ids = self._rendering
        parts: list[Any] = [normalizers.Replace(guard, "")]
        if self.spec.alphabet == "spaces":
            parts.append(normalizers.Replace(" ", SPACE))
        if self.spec.prefix == "always":
            parts.append(normalizers.Prepend(SPACE if self.spec.alphabet == "spaces" else " "))
        pipeline.normalizer = normalizers.Sequence(parts)
        if self.spec.prefix == "first" and not text.startswith(tuple(self._control_texts)):
            text = (SPACE if self.spec.alphabet == "spaces" else " ") + text
        return [
            ids.get(token_id, token_id) for token_id in pipeline.encode(text, add_special_tokens=False).ids
        ]

    def to_json(self) -> str:
        """Return the JSON that a checkpoint stores."""
        if self._json is None:
            self._json = json.dumps({KIND_KEY: SPEC_KIND, **_stored(self.spec)}, ensure_ascii=False)
        return self._json

    def published_json(self) -> str:
        """Give the tokenizer.json that other programs read."""
        if self._json is not None and is_adopted(self._json):
            stored = json.loads(self._json)
            if stored.get(KIND_KEY) == KIND:
                return json.dumps(stored["tokenizer"], ensure_ascii=False)
        return self._rendering[0].to_str()

    @cached_property
    def _special_texts(self) -> list[str]:
        return _longest_first(self.spec.pieces[token_id] for token_id in self.spec.special)

    @cached_property
    def _control_texts(self) -> list[str]:
        added = (*self.spec.special, *self.spec.visible)
        return _longest_first(self.spec.pieces[token_id] for token_id in added)

    @cached_property
    def _rendering(self) -> tuple[HFTokenizer, dict[int, int]]:
        """Return a second pipeline, which knows the control tokens, and our ids of its own for them."""
        pipeline, spec = _pipeline(self._model, self.spec), self.spec
        # A guard cannot break a token of one character, so such a token is never read out of a text.
        added = [n for n in (*spec.special, *spec.visible) if len(spec.pieces[n]) > 1]
        tokens = [
            AddedToken(
                spec.pieces[n], normalized=False, special=True,
                lstrip="l" in _strip(spec, n), rstrip="r" in _strip(spec, n),
            )
            for n in added
        ]  # fmt: skip
        pipeline.add_special_tokens(tokens)
        return pipeline, {pipeline.token_to_id(spec.pieces[n]) or 0: n for n in added}

    def _refuse_missing(self, raw: bytes) -> None:
        found = [byte for byte in self._missing if byte in raw] if self._missing else []
        if found:
            text = raw.decode("utf-8", errors="replace")
            at = next((c for c in text if found[0] in c.encode("utf-8", errors="replace")), "")
            raise TokenizerError(
                f"the text holds {at!r}, and this model's tokenizer has no piece for its byte {found[0]:#04x}"
            )

    def _check_probes(self) -> None:
        for probe in PROBES:
            raw = probe.encode()
            if any(byte in raw for byte in self._missing):
                continue
            back = b"".join(map(self.token_bytes, self.encode_ids(probe)))
            if back != raw:
                shown = back.decode(errors="replace")
                raise TokenizerError(
                    f"not a tokenizer that can be used here: {probe!r} comes back as {shown!r}"
                )


def adopt(json_text: str, *, end: str | None) -> HFBPETokenizer:
    """Tokenizer from a published tokenizer.json; `end` is the control token that ends a text, if any.

    Raises:
        TokenizerError: it is not a BPE with a piece for every byte, or cannot give a text back.

    """
    try:
        stored = json.loads(json_text)
        parts = dict.fromkeys(("normalizer", "post_processor", "truncation", "padding"))
        content = {KIND_KEY: KIND, "end": end, "tokenizer": {**stored, **parts}}
    except (ValueError, TypeError, RecursionError) as error:
        raise TokenizerError(f"not a tokenizer: {error}; expected a tokenizer.json") from error
    return from_stored(json.dumps(content, ensure_ascii=False))


def is_adopted(json_text: str) -> bool:
    """Whether a stored tokenizer is one of these."""
    return json_text.startswith((f'{{"{KIND_KEY}": "{KIND}"', f'{{"{KIND_KEY}": "{SPEC_KIND}"'))


def from_stored(json_text: str) -> HFBPETokenizer:
    """Tokenizer from what `to_json` gave; `TokenizerError` for anything else."""
    try:
        stored = json.loads(json_text)
        if stored.pop(KIND_KEY) == KIND:
            spec = spec_of(stored["tokenizer"], end=stored.get("end"))
        else:
            strips = {int(n): how for n, how in stored.pop("strips").items()}
            spec = BPESpec(**stored, strips=strips)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        msg = f"not a stored tokenizer: {type(error).__name__}: {error}; expected what a checkpoint holds"
        raise TokenizerError(msg if not isinstance(error, TokenizerError) else str(error)) from error
    return HFBPETokenizer(spec, json_text=json_text)


def _model(spec: BPESpec, added: set[int]) -> models.BPE:
    """Return the library's model of the ordinary pieces: no merge makes a control token."""
    if len(spec.pieces) > LARGEST_VOCABULARY:
        raise TokenizerError(f"it has {len(spec.pieces)} ids, expected at most {LARGEST_VOCABULARY}")
    vocab = {piece: n for n, piece in enumerate(spec.pieces) if piece and n not in added}
    if max(map(len, vocab), default=0) > LONGEST_PIECE:
        raise TokenizerError(f"a piece has more than {LONGEST_PIECE} characters")
    merges = [(a, b) for a, b in spec.merges if a in vocab and b in vocab and a + b in vocab]
    # The library numbers added tokens from the size of the vocabulary on, so no id may be left out. A blank
    # is a letter in neither alphabet: no text reaches these.
    taken = set(vocab.values())
    vocab |= {f" {n}": n for n in range(len(spec.pieces)) if n not in taken}
    try:
        return models.BPE(
            vocab=vocab, merges=merges, byte_fallback=spec.alphabet == "spaces",
            fuse_unk=False, ignore_merges=spec.ignore_merges,
        )  # fmt: skip
    except Exception as error:  # the library raises nothing narrower
        raise TokenizerError(f"not a tokenizer that can be used here: {error}") from error


def _pipeline(model: models.BPE, spec: BPESpec) -> HFTokenizer:
    pipeline = HFTokenizer(model)
    try:
        splitters = [_splitter(one) for one in spec.splitters]
    except Exception as error:  # the library raises nothing narrower
        raise TokenizerError(f"not a tokenizer that can be used here: its pre-tokenizer: {error}") from error
    if splitters:
        pipeline.pre_tokenizer = pre_tokenizers.Sequence(splitters)
    pipeline.decoder = decoders.ByteLevel()
    if spec.runs:
        pipeline.add_tokens([AddedToken(spec.pieces[n], normalized=False) for n in spec.runs])
    return pipeline


def _splitter(one: Mapping[str, Any]) -> Any:
    """Return the library's pre-tokenizer of its JSON; only the whole tokenizer can be read from JSON."""
    shell = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": dict(one), "post_processor": None, "decoder": None,
        "model": {"type": "BPE", "vocab": {}, "merges": []},
    }  # fmt: skip
    return HFTokenizer.from_str(json.dumps(shell)).pre_tokenizer


def _strip(spec: BPESpec, token_id: int) -> str:
    return dict(spec.strips).get(token_id, "")


def _stored(spec: BPESpec) -> dict[str, Any]:
    # Not `asdict`, which copies every one of its 100,000 tuples.
    values = {field.name: getattr(spec, field.name) for field in fields(spec)}
    return values | {"strips": {str(n): how for n, how in dict(spec.strips).items()}}


def _longest_first(texts: Iterable[str]) -> list[str]:
    return sorted({text for text in texts if text}, key=lambda text: (-len(text), text))


def _bytes_of_letters(piece: str) -> bytes:
    """Return the bytes of a piece of letters; a piece of other characters stands for none."""
    try:
        return piece.translate(_LATIN).encode("latin-1")
    except UnicodeEncodeError:
        return b""


def _bytes_of_spaced(piece: str) -> bytes:
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        try:
            return bytes((int(piece[3:5], 16),))
        except ValueError:
            return utf8(piece)
    return piece.replace(SPACE, " ").encode("utf-8", errors="replace")
