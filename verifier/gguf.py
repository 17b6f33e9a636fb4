"""A Llama in a GGUF file, as docs/spec/gguf.md defines it: integer weights, vocabulary, chat template.

L layers, H heads, KV of keys and values, D head width, C width, G groups of 32, V vocabulary, n tokens.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

from verifier.float32 import F32, fma, silu
from verifier.model import NotVerifiable, attention, rms_norm, rotary_tables, sha256
from verifier.record import Template, byte_of_letter

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_KINDS = {0: ("f32", 1, 4), 2: ("q4_0", 32, 18), 3: ("q4_1", 32, 20), 8: ("q8_0", 32, 34)}
_HALVES = {"q8_0": 1, "q4_0": 1, "q4_1": 2}  # float16 numbers in front of a group's integers
_LEVELS, _SMALLEST = F32(32639), F32(2.0**-100)
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_SPLITTERS = [{"type": "Digits", "individual_digits": True}, _BYTES]
# SmolLM2's template, in front of its default system prompt and behind it
_BEFORE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\n"
)
_BEHIND = (
    "<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n"
    "' }}{% endif %}"
)


class _Header:
    """A position in the header of a file."""

    def __init__(self, data: np.ndarray) -> None:
        self.data, self.at = memoryview(data), 0  # type: ignore[arg-type]

    def number(self, kind: int) -> Any:
        form = "<" + _NUMBERS[kind]
        self.at += struct.calcsize(form)
        return struct.unpack_from(form, self.data, self.at - struct.calcsize(form))[0]

    def text(self) -> str:
        size = self.number(10)
        self.at += size
        return str(self.data[self.at - size : self.at], "utf-8")

    def value(self, kind: int) -> Any:
        if kind == 9:
            kind, count = self.number(4), self.number(10)
            return [self.value(kind) for _ in range(count)]
        return self.text() if kind == 8 else self.number(kind)


class GGUFModel:
    """The weights, configuration and vocabulary of one file."""

    def __init__(self, path: str | Path) -> None:
        """Read a file of the architecture llama with weights in groups of 32."""
        data = np.memmap(path, np.uint8, "r")
        header = _Header(data)
        header.at = 8  # behind the magic number and the version
        tensors, entries = header.number(10), header.number(10)
        self.metadata = {header.text(): header.value(header.number(4)) for _ in range(entries)}
        places = [
            (header.text(), [header.number(10) for _ in range(header.number(4))][::-1], header.number(4),
             header.number(10))
            for _ in range(tensors)
        ]  # fmt: skip
        first = -(-header.at // 32) * 32
        self.tensors: dict[str, tuple[str, tuple[int, ...], np.ndarray]] = {}
        for name, shape, kind, offset in places:
            if kind not in _KINDS:
                raise NotVerifiable(f"{name} is of the GGUF type {kind}")
            word, block, size = _KINDS[kind]
            end = first + offset + math.prod(shape) // block * size
            self.tensors[name] = word, tuple(shape), data[first + offset : end]
        self.cfg = self._config()
        theta = self.metadata.get("llama.rope.freq_base", 10000.0)
        self._tables = rotary_tables(self.cfg["T"], self.cfg["D"], theta)

    def _config(self) -> dict[str, Any]:
        m = {key.removeprefix("llama."): value for key, value in self.metadata.items()}
        C, H = m["embedding_length"], m["attention.head_count"]
        odd = [
            key for key in m if key.startswith(("rope.scaling", "expert", "attention.key", "general.align"))
        ]
        odd += [name for name in self.tensors if name.endswith((".bias", "rope_freqs.weight"))]
        if m["general.architecture"] != "llama" or odd or m.get("rope.dimension_count", C // H) != C // H:
            raise NotVerifiable(f"the GGUF file is not a plain llama: {m['general.architecture']} {odd}")
        rope = {"dims": None, "scaling": ["default"], "theta": m.get("rope.freq_base", 10000.0)}
        cfg = {
            "V": self.tensors["token_embd.weight"][1][0], "T": m["context_length"], "C": C, "H": H,
            "L": m["block_count"], "KV": m["attention.head_count_kv"], "D": C // H, "gated": True,
            "d_ff": m["feed_forward_length"], "mlp": "silu", "norm": "rmsnorm",
            "norm_eps": m["attention.layer_norm_rms_epsilon"], "score_scale": (C // H) ** -0.5,
        }  # fmt: skip
        cfg |= {"tied": False} if "output.weight" in self.tensors else {}
        return cfg | ({} if rope["theta"] == 10000 else {"rope": [rope]})  # what is usual is left out

    def fingerprint(self) -> dict[str, str]:
        """Return the four parts of its fingerprint, in hex."""
        digest = hashlib.sha256()
        for name, (kind, shape, data) in sorted(self.tensors.items()):
            digest.update(f"{name}\0{kind}\0{shape}\0".encode() + data.tobytes())
        template = ChatML(self)
        rules = {
            "name": "jinja", "version": 1, "stop_ids": sorted(template.stop_ids), "stop_sequences": [],
            "banned_ids": sorted(template.banned), "source": sha256(self.metadata["tokenizer.chat_template"]),
        }  # fmt: skip
        return {
            "weights": digest.hexdigest(),
            "config": sha256(json.dumps(self.cfg, sort_keys=True)),
            "tokenizer": sha256(json.dumps(template.stored, ensure_ascii=False)),
            "template": sha256(json.dumps(rules, sort_keys=True)),
        }

    def logits(self, ids: list[int], wanted: int) -> np.ndarray:
        """Return the logits (wanted, V) after each of the last `wanted` of n tokens."""
        x, scale = self._embedding(ids), F32(self.cfg["score_scale"])
        for layer in range(self.cfg["L"]):
            w = f"blk.{layer}."
            q, k, v = (self._product(self._norm(x, w + "attn_norm"), f"{w}attn_{part}") for part in "qkv")
            mixed = attention(q, k, v, heads=self.cfg["H"], tables=self._tables, scale=scale)
            x = x + self._product(mixed, w + "attn_output")
            h = self._norm(x, w + "ffn_norm")
            inner = silu(self._product(h, w + "ffn_gate")) * self._product(h, w + "ffn_up")
            x = x + self._product(inner, w + "ffn_down")
        head = "output" if "output.weight" in self.tensors else "token_embd"
        return self._product(self._norm(x[-wanted:], "output_norm"), head)

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        return rms_norm(x, self.tensors[name + ".weight"][2].view(F32), F32(self.cfg["norm_eps"]))

    def _groups(self, name: str, rows: Any = slice(None)) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """Return d (N, G), low (N, G) or None, and the integers (N, G, 32) of rows of a matrix."""
        kind, (N, K), data = self.tensors[name + ".weight"]
        if kind == "f32":
            raise NotVerifiable(f"the matrix {name} is float32")
        blocks = data.reshape(N, K // 32, -1)[rows]
        d, *lows = np.moveaxis(np.ascontiguousarray(blocks[..., : 2 * _HALVES[kind]]).view("<f2"), 2, 0)
        q = blocks[..., 2 * _HALVES[kind] :]
        if kind == "q8_0":
            return d.astype(F32), None, q.view(np.int8)
        low = lows[0] if lows else d * np.float16(-8)
        return d.astype(F32), low.astype(F32), np.concatenate([q & 15, q >> 4], axis=2)

    def _embedding(self, ids: list[int]) -> np.ndarray:
        d, low, q = self._groups("token_embd", ids)
        scaled = d[..., None] * q.astype(F32)
        if low is not None:
            scaled = fma(d[..., None], q.astype(F32), np.broadcast_to(low[..., None], q.shape))
        return scaled.reshape(len(ids), -1)

    def _product(self, x: np.ndarray, name: str) -> np.ndarray:
        """Return the products (n, N) of x (n, K): a chain over groups, exact within one."""
        d, low, w = self._groups(name)
        x = x.reshape(len(x), -1, 32)
        largest = np.abs(x).max(2)
        used = largest >= _SMALLEST
        size = np.where(used, largest, _LEVELS)
        dx = np.where(used, size / _LEVELS, F32(0))
        inverse = np.where(used, _LEVELS / size, F32(0)).astype(np.float64)
        q = np.rint(x * inverse[..., None])  # exact in float64 before it is rounded
        sx = dx * q.sum(2).astype(F32)
        result = np.zeros((len(x), len(w)), F32)
        for g in range(w.shape[1]):
            dots = (q[:, g] @ w[:, g].T.astype(np.float64)).astype(F32)  # whole numbers below 2**27
            result = fma(dx[:, g : g + 1] * d[:, g], dots, result)
            if low is not None:
                result = fma(sx[:, g : g + 1], low[:, g], result)
        return result


class ChatML(Template):
    """The template of SmolLM2 and its like: `<|im_start|>role`, the content, `<|im_end|>`."""

    stop_sequences = ()

    def __init__(self, model: GGUFModel) -> None:
        m = {key.removeprefix("tokenizer."): value for key, value in model.metadata.items()}
        source, pieces, types = m.get("chat_template", ""), m["ggml.tokens"], m["ggml.token_type"]
        self._default = source[len(_BEFORE) : -len(_BEHIND)]
        same = source == _BEFORE + self._default + _BEHIND and not set("'{}<") & set(self._default)
        if not same or (m["ggml.model"], m["ggml.pre"]) != ("gpt2", "smollm") or set(types) - {1, 3}:
            raise NotVerifiable("the GGUF file has another chat template or vocabulary than SmolLM2's kind")
        special = [n for n, kind in enumerate(types) if kind == 3]
        named = {piece: n for n, piece in enumerate(pieces)}
        ends = [m.get(f"ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
        self._start, self._end = named["<|im_start|>"], named["<|im_end|>"]
        self.stop_ids = frozenset([*(n for n in ends if n is not None), self._end])
        self.banned = frozenset(special) - self.stop_ids
        merges = [merge.split(" ") for merge in m["ggml.merges"]]
        self.stored = {
            "niels_gpt": "bpe", "pieces": pieces, "merges": merges, "alphabet": "bytes",
            "splitters": _SPLITTERS, "special": special, "visible": [], "strips": {}, "runs": [],
            "ignore_merges": False, "prefix": "",
            "begin": [m["ggml.bos_token_id"]] if m.get("ggml.add_bos_token") else [], "end": None,
        }  # fmt: skip
        vocab = {piece: n for piece, n in named.items() if types[n] == 1}
        usable = [(a, b) for a, b in merges if a in vocab and b in vocab and a + b in vocab]
        self._tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=usable))
        self._tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        byte, kinds = byte_of_letter(), zip(pieces, types, strict=True)
        self._pieces = [bytes(byte[c] for c in piece) if kind == 1 else b"" for piece, kind in kinds]

    def prompt_ids(self, messages: Sequence[tuple[str, str]]) -> list[int]:
        """Return the ids of the messages up to where the reply begins."""
        ids, first = [], [] if messages[0][0] == "system" else [("system", self._default)]
        for role, content in [*first, *messages]:
            text = self.encoded(f"{role}\n{content}")
            ids += [self._start, *text, self._end, *self.encoded("\n")]
        return [*ids, self._start, *self.encoded("assistant\n")]
