"""A checkpoint and its forward pass, as docs/spec/arithmetic.md defines them.

L layers, H heads, D head width, C width, F width of the MLP, V vocabulary, n tokens.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import zipfile
from collections import OrderedDict
from decimal import Context, Decimal, localcontext
from pathlib import Path
from typing import Any

import numpy as np

from verifier.float32 import F32, exp, fma, gelu, lane_sum, product, silu

Tables = tuple[np.ndarray, np.ndarray]  # cosines and sines (T, D / 2)
EPS = F32(1e-5)
_DTYPES = {"FloatStorage": "<f4", "HalfStorage": "<f2", "BFloat16Storage": "<u2", "DoubleStorage": "<f8"}


class NotVerifiable(Exception):  # noqa: N818 - named for what it says of the input
    """The input is outside of what this verifier covers; the message says what."""


class _Tensors(pickle.Unpickler):
    """Unpickles dictionaries of tensors; any other name that the file mentions is refused."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(archive.open(f"{root}/data.pkl"))
        self._archive, self._root = archive, root

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._tensor
        if module == "torch" and name.endswith("Storage"):
            return name
        raise NotVerifiable(f"the checkpoint names {module}.{name}")

    def persistent_load(self, key: Any) -> np.ndarray:
        _, kind, number, _, count = key
        if kind not in _DTYPES:  # an optimizer's counters; no weight has such a type
            return np.zeros(count)
        numbers = np.frombuffer(self._archive.read(f"{self._root}/data/{number}"), _DTYPES[kind])
        return (numbers.astype(np.uint32) << 16).view(F32) if kind == "BFloat16Storage" else numbers

    @staticmethod
    def _tensor(storage: np.ndarray, offset: int, size: Any, stride: Any, *_: object) -> np.ndarray:
        strides = [step * storage.itemsize for step in stride]
        return np.lib.stride_tricks.as_strided(storage[offset:], size, strides).astype(F32)


class Model:
    """The weights, configuration and tokenizer of one checkpoint."""

    def __init__(self, path: str | Path, *, int8: bool = False) -> None:
        """Read a `.pt` checkpoint of a GPT; `int8` gives its linear layers 8-bit weights."""
        with zipfile.ZipFile(path) as archive:
            root = archive.namelist()[0].partition("/")[0]
            content = _Tensors(archive, root).load()
        self.weights: dict[str, np.ndarray] = dict(content["model_state"])
        self.tokenizer_json: str | None = content.get("tokenizer")
        self.cfg = self._config(content["model_cfg"])
        if self.cfg["arch"] != "gpt":
            raise NotVerifiable(f"the architecture {self.cfg['arch']!r} is not covered")
        if self.cfg["tie_embeddings"]:
            self.weights["lm_head.weight"] = self.weights["tok_emb.weight"]
        self.int8 = int8
        self.D = self.cfg["C"] // self.cfg["H"]
        self._linear = [
            name for name in self.weights if name.split(".")[-2] in _LINEAR and name.endswith("weight")
        ]
        self._quantised = {name: quantise(self.weights[name]) for name in self._linear} if int8 else {}
        self._tables = rotary_tables(self.cfg["T"], self.D, self.cfg["rope_theta"])

    def _config(self, stored: dict[str, Any]) -> dict[str, Any]:
        gated = "blocks.0.mlp.fc_g.weight" in self.weights
        head = self.weights.get("lm_head.weight")
        inferred = {
            "dropout": 0.1,
            "rope_theta": 10000.0,
            "norm": "layernorm" if "ln_f.bias" in self.weights else "rmsnorm",
            "mlp": "swiglu" if gated else "gelu",
            "tie_embeddings": head is None or np.array_equal(head, self.weights["tok_emb.weight"]),
            "arch": "gpt",
        }
        cfg = {**inferred, **stored}
        bias = f"blocks.0.mlp.{'fc_out' if gated else 'fc1'}.bias" in self.weights
        cfg["mlp_bias"] = bias if cfg.get("mlp_bias") is None else cfg["mlp_bias"]
        return cfg

    def fingerprint(self) -> dict[str, str]:
        """Return the parts "weights", "config" and "tokenizer" of its fingerprint, in hex."""
        digest = hashlib.sha256()
        tied = {"lm_head.weight"} if self.cfg["tie_embeddings"] else set()
        for name in sorted(self.weights.keys() - (set(self._linear) if self.int8 else tied)):
            value = self.weights[name]
            digest.update(f"{name}\0torch.float32\0{tuple(value.shape)}\0".encode() + value.tobytes())
        for name in sorted(self._quantised):
            integers, scales = self._quantised[name]
            digest.update(f"{name}\0int8\0{integers.shape}\0".encode() + integers.tobytes())
            digest.update(scales.tobytes())
        fields = {name: value for name, value in self.cfg.items() if name != "dropout"}
        return {
            "weights": digest.hexdigest(),
            "config": sha256(json.dumps(fields, sort_keys=True)),
            "tokenizer": sha256(self.tokenizer_json or "bytes"),
        }

    def logits(self, ids: list[int], wanted: int) -> np.ndarray:
        """Return the logits (wanted, V) after each of the last `wanted` of n tokens."""
        cfg, w = self.cfg, self.weights
        x = w["tok_emb.weight"][ids]
        zeros, scale = F32(0), F32(1) / np.sqrt(F32(self.D))
        up, gate, down = ("fc_a", "fc_g", "fc_out") if cfg["mlp"] == "swiglu" else ("fc1", "", "fc2")
        for layer in range(cfg["L"]):
            block = f"blocks.{layer}."
            qkv = self._product(self._norm(x, f"{block}ln1"), f"{block}attn.qkv.weight", zeros)
            q, k, v = np.split(qkv, 3, axis=1)
            mixed = attention(q, k, v, heads=cfg["H"], tables=self._tables, scale=scale)
            x = self._product(mixed, f"{block}attn.proj.weight", x)
            normed = self._norm(x, f"{block}ln2")
            inner = self._product(normed, f"{block}mlp.{up}.weight", w.get(f"{block}mlp.{up}.bias", zeros))
            if gate:
                start = w.get(f"{block}mlp.{gate}.bias", zeros)
                inner = silu(self._product(normed, f"{block}mlp.{gate}.weight", start)) * inner
            else:
                inner = gelu(inner)
            x = x + w.get(f"{block}mlp.{down}.bias", zeros)  # adding 0 turns -0 into 0
            x = self._product(inner, f"{block}mlp.{down}.weight", x)
        return self._product(self._norm(x[-wanted:], "ln_f"), "lm_head.weight", zeros)

    def _product(self, x: np.ndarray, name: str, start: Any) -> np.ndarray:
        if not self.int8:
            return product(x, self.weights[name], np.asarray(start, F32))
        integers, scales = self._quantised[name]
        chains = product(x, integers.astype(F32), np.zeros(1, F32))
        return fma(chains, scales, np.broadcast_to(np.asarray(start, F32), chains.shape))

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        scale, size = self.weights[f"{name}.weight"], F32(x.shape[-1])
        if self.cfg["norm"] == "rmsnorm":
            return rms_norm(x, scale, EPS)
        deviation = x - (lane_sum(x) / size)[..., None]
        root = np.sqrt(lane_sum(deviation * deviation) / size + EPS)[..., None]
        shift = self.weights.get(f"{name}.bias", np.zeros_like(scale))
        return fma(deviation / root, scale, np.broadcast_to(shift, x.shape))


def rms_norm(x: np.ndarray, scale: np.ndarray, eps: np.float32) -> np.ndarray:
    """Return the rows (n, C) divided by the root of their mean square, times `scale`."""
    root = np.sqrt(lane_sum(x * x) / F32(x.shape[-1]) + eps)[..., None]
    return x / root * scale


def attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, *, heads: int, tables: Tables, scale: np.float32
) -> np.ndarray:
    """Return the mixed values (n, H D) of queries (n, H D) and of keys and values (n, KV D) for H heads."""
    n, D = len(q), q.shape[1] // heads
    mixed = np.empty_like(q)
    for head in range(heads):
        own, shared = head * D, head * k.shape[1] // q.shape[1] * D
        queries = turned(q[:, own : own + D], tables) * scale
        scores = product(queries, turned(k[:, shared : shared + D], tables), np.zeros(1, F32))
        out = np.zeros((n, D), F32)
        sums = np.empty(n, F32)
        weights = np.zeros((n, n), F32)
        for row in range(n):
            seen = scores[row, : row + 1]
            weights[row, : row + 1] = exp(seen - seen.max())
            sums[row] = lane_sum(weights[row, : row + 1])
        for position in range(n):
            value = v[position, shared : shared + D]
            out[position:] = fma(weights[position:, position : position + 1], value, out[position:])
        mixed[:, own : own + D] = out / sums[:, None]
    return mixed


def turned(x: np.ndarray, tables: Tables) -> np.ndarray:
    """Return one head's queries or keys (n, D), turned in pairs (2i, 2i + 1)."""
    cosine, sine = (table[: len(x)] for table in tables)
    even, odd = x[:, ::2], x[:, 1::2]
    found = np.empty_like(x)
    found[:, ::2] = fma(even, cosine, odd * -sine)
    found[:, 1::2] = fma(odd, cosine, even * sine)
    return found


_LINEAR = {"qkv", "proj", "fc1", "fc2", "fc_a", "fc_g", "fc_out", "lm_head"}


def quantise(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return integers (N, K) int8 and scales (N,) float32 of a weight (N, K)."""
    scale = np.abs(weight).max(axis=1) / F32(127)
    usable = scale > 0
    divisor = np.where(usable, scale, F32(1)).astype(np.float64)
    quotient = np.where(usable[:, None], weight, F32(0)) / divisor[:, None]
    return np.clip(np.rint(quotient), -127, 127).astype(np.int8), scale


def rotary_tables(T: int, D: int, theta: float) -> tuple[np.ndarray, np.ndarray]:
    """Return cosines and sines (T, D / 2) float32 of position * theta ** (-2 i / D)."""
    cosine, sine = np.ones((T, D // 2)), np.zeros((T, D // 2))
    with localcontext(Context(prec=40)):
        for pair in range(D // 2):
            angle = (-(Decimal(2 * pair) / Decimal(D)) * Decimal(theta).ln()).exp()
            square, term = angle * angle, Decimal(1)
            c, s = Decimal(0), Decimal(0)
            for n in range(0, 60, 2):
                c += term
                s += term * angle / (n + 1)
                term *= -square / ((n + 1) * (n + 2))
            known = 1
            while known < T:
                fresh, fc, fs = min(known, T - known), float(c), float(s)
                old_c, old_s = cosine[:fresh, pair], sine[:fresh, pair]
                cosine[known : known + fresh, pair] = old_c * fc - old_s * fs
                sine[known : known + fresh, pair] = old_s * fc + old_c * fs
                c, s = c * c - s * s, 2 * c * s
                known *= 2
    return cosine.astype(F32), sine.astype(F32)


def sha256(text: str) -> str:
    """Return SHA-256 of a text, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()
