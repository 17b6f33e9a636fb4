"""The vocabulary in a GGUF file's metadata as a tokenizer: byte-level BPE, or SentencePiece with scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from niels_gpt.text.bpe_spec import SPACE, BPESpec
from niels_gpt.text.split_patterns import GPT4O, LLAMA3, QWEN2
from niels_gpt.text.tokenizer import TokenizerError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
LETTERS = BYTE_LEVEL | {"use_regex": False}
DIGITS = {"type": "Digits", "individual_digits": True}


def _split(pattern: str) -> list[dict[str, Any]]:
    part = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return [part, LETTERS]


GPT2 = [BYTE_LEVEL]
SPLITTERS: dict[str, list[dict[str, Any]]] = {
    "default": GPT2,
    "gpt-2": GPT2,
    "phi-2": GPT2,
    "mpt": GPT2,
    "olmo": GPT2,
    "jais": GPT2,
    "smollm": [DIGITS, BYTE_LEVEL],
    "starcoder": [DIGITS, BYTE_LEVEL],
    "refact": [DIGITS, BYTE_LEVEL],
    "command-r": [DIGITS, BYTE_LEVEL],
    "codeshell": [DIGITS, BYTE_LEVEL],
    "exaone": [DIGITS, BYTE_LEVEL],
    "llama-bpe": _split(LLAMA3),
    "llama3": _split(LLAMA3),
    "llama-v3": _split(LLAMA3),
    "dbrx": _split(LLAMA3),
    "smaug-bpe": _split(LLAMA3),
    "qwen2": _split(QWEN2),
    "qwen35": _split(QWEN2),
    "deepseek-r1-qwen": _split(QWEN2),
    "stablelm2": _split(QWEN2),
    "hunyuan": _split(QWEN2),
    "gpt-4o": _split(GPT4O),
    "llama4": _split(GPT4O),
}
"""By `tokenizer.ggml.pre`, how text is split before its pieces are merged."""
WHOLE_WORDS = frozenset(("llama-bpe", "llama3", "llama-v3"))
"""Those that take a word that is a piece as it is, whatever the merges say."""


def gguf_spec(metadata: Mapping[str, Any]) -> BPESpec:
    """Return the tokenizer that a file's metadata describes.

    Raises:
        TokenizerError: it is missing, contradicts itself, or is of a kind that is not supported.

    """
    kind = metadata.get("tokenizer.ggml.model")
    pieces = _texts(metadata, "tokens")
    types = _numbers(metadata, "token_type", len(pieces), NORMAL)
    added = [n for n, one in enumerate(types) if one == USER_DEFINED]
    runs = [n for n in added if pieces[n] and not pieces[n].replace(SPACE, " ").strip()]
    common: dict[str, Any] = {
        "pieces": ["" if types[n] == UNUSED else piece for n, piece in enumerate(pieces)],
        "special": [n for n, one in enumerate(types) if one in {CONTROL, UNKNOWN} and pieces[n]],
        "visible": [n for n in added if n not in set(runs) and pieces[n]],
        "runs": runs,
        "begin": _begin(metadata, kind, len(pieces)),
    }
    if kind == "gpt2":
        pre = metadata.get("tokenizer.ggml.pre", "default")
        if pre not in SPLITTERS:
            raise TokenizerError(
                f"its pre-tokenizer {pre!r} is not supported, expected {', '.join(SPLITTERS)}"
            )
        merges = [tuple(merge.split(" ")) for merge in _texts(metadata, "merges")]
        if not all(len(merge) == 2 for merge in merges):
            raise TokenizerError("a merge is not of two pieces")
        return BPESpec(
            **common,
            alphabet="bytes",
            merges=merges,
            splitters=SPLITTERS[pre],
            ignore_merges=pre in WHOLE_WORDS,
        )
    if kind == "llama":
        scores = _numbers(metadata, "scores", len(pieces), 0.0)
        prefix: Literal["", "always"] = (
            "always" if metadata.get("tokenizer.ggml.add_space_prefix", True) else ""
        )
        return BPESpec(**common, alphabet="spaces", merges=_merges(pieces, scores, types), prefix=prefix)
    raise TokenizerError(f"its vocabulary is of the kind {kind!r}, expected 'gpt2' or 'llama'")


def gguf_end_ids(metadata: Mapping[str, Any], count: int) -> list[int]:
    """Return the ids that end a reply."""
    names = ("eos_token_id", "eot_token_id", "eom_token_id")
    found = [metadata.get(f"tokenizer.ggml.{name}") for name in names]
    return [n for n in found if isinstance(n, int) and not isinstance(n, bool) and 0 <= n < count]


def gguf_token_texts(metadata: Mapping[str, Any], pieces: Sequence[str]) -> dict[str, str]:
    """Return the texts of special tokens by the names that a chat template uses."""
    ours = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    found: dict[str, str] = {}
    for name, key in ours.items():
        token_id = metadata.get(f"tokenizer.ggml.{key}_token_id")
        if isinstance(token_id, int) and 0 <= token_id < len(pieces):
            found[name] = pieces[token_id]
    return found


def _begin(metadata: Mapping[str, Any], kind: object, count: int) -> list[int]:
    wanted = metadata.get("tokenizer.ggml.add_bos_token", kind == "llama")
    token_id = metadata.get("tokenizer.ggml.bos_token_id")
    return [token_id] if wanted and isinstance(token_id, int) and 0 <= token_id < count else []


def _texts(metadata: Mapping[str, Any], name: str) -> list[str]:
    value = metadata.get(f"tokenizer.ggml.{name}")
    if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
        raise TokenizerError(f"the file has no list of texts 'tokenizer.ggml.{name}'")
    return value


def _numbers(metadata: Mapping[str, Any], name: str, count: int, default: float) -> list[Any]:
    value = metadata.get(f"tokenizer.ggml.{name}")
    if value is None:
        return [default] * count
    if not isinstance(value, list) or len(value) != count or isinstance(value[0], str):
        raise TokenizerError(f"'tokenizer.ggml.{name}' is not a list of {count} numbers")
    return value


def _merges(pieces: Sequence[str], scores: Sequence[float], types: Sequence[int]) -> list[tuple[str, str]]:
    """Return the merges that make the pieces, those of the highest score first.

    A piece is made of any two others, which is what SentencePiece does with its scores.
    """
    ids = {piece: n for n, piece in enumerate(pieces) if types[n] in {NORMAL, USER_DEFINED}}
    found: list[tuple[float, int, int, str, str]] = []
    for piece, n in ids.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in ids and right in ids:
                found.append((-scores[n], ids[left], ids[right], left, right))
    found.sort()
    return [(left, right) for *_, left, right in found]
