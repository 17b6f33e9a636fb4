"""What a form means, in float64 and one token at a time: the reference of the kernels' tests.

It reads no code of the kernels and repeats heads, loops over positions and forms every score.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from niels_gpt.model.form import Form
from niels_gpt.model.weights import Weight, dequantise

erf = np.vectorize(math.erf)


class Reference:
    """Logits of a form over float64 arrays."""

    def __init__(self, form: Form, weights: Mapping[str, Weight]) -> None:
        self.form = form
        self._weights = {name: dequantise(weight).astype(np.float64) for name, weight in weights.items()}

    def logits(self, ids: list[int]) -> np.ndarray:
        form, get = self.form, self._weights
        x = get["tok_emb.weight"][ids] * form.embed_scale
        if form.positions == "learned":
            x = x + get["pos_emb.weight"][: len(ids)]
        if "embed" in form.norms:
            x = self._norm("ln_e", x)
        for layer in range(form.L):
            x = self._block(f"blocks.{layer}.", layer, x)
        head = get.get("head.weight", get["tok_emb.weight"])
        y = (self._norm("ln_f", x) @ head.T + get.get("head.bias", 0)) * form.head_scale
        return np.tanh(y / form.head_cap) * form.head_cap if form.head_cap else y

    def _norm(self, name: str, x: np.ndarray) -> np.ndarray:
        scale, shift = self._weights.get(f"{name}.weight", 1.0), self._weights.get(f"{name}.bias", 0.0)
        if self.form.norm == "layernorm":
            x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.form.norm_eps) * scale + shift

    def _placed(self, block: str, place: str, x: np.ndarray) -> np.ndarray:
        return self._norm(f"{block}norms.{place}", x) if place in self.form.norms else x

    def _linear(self, name: str, x: np.ndarray) -> np.ndarray:
        return x @ self._weights[f"{name}.weight"].T + self._weights.get(f"{name}.bias", 0.0)

    def _block(self, block: str, layer: int, x: np.ndarray) -> np.ndarray:
        form = self.form
        read = self._placed(block, "attn_in", x)
        added = self._placed(block, "attn_out", self._attention(block, layer, read))
        if form.parallel:
            own = read if form.parallel == "one" else self._placed(block, "mlp_in", x)
            return x + (added + self._mlp(block, own)) * form.residual_scale
        x = x + added * form.residual_scale
        own = self._mlp(block, self._placed(block, "mlp_in", x))
        return x + self._placed(block, "mlp_out", own) * form.residual_scale

    def _mlp(self, block: str, x: np.ndarray) -> np.ndarray:
        act = {
            "gelu": lambda v: v / 2 * (1 + erf(v / math.sqrt(2))),
            "gelu_tanh": lambda v: v / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))),
            "silu": lambda v: v / (1 + np.exp(-v)),
            "relu": lambda v: np.maximum(v, 0),
            "relu2": lambda v: np.maximum(v, 0) ** 2,
        }[self.form.mlp]
        up = self._linear(f"{block}up", x)
        inner = act(self._linear(f"{block}gate", x)) * up if self.form.gated else act(up)
        return self._linear(f"{block}down", inner)

    def _attention(self, block: str, layer: int, x: np.ndarray) -> np.ndarray:
        form, (H, KV, D), t = self.form, self.form.heads, len(x)
        q, k, v = (self._linear(f"{block}{part}", x) for part in "qkv")
        if form.qk_norm == "row":
            q, k = self._norm(f"{block}q_norm", q), self._norm(f"{block}k_norm", k)
        q, k, v = q.reshape(t, H, D), k.reshape(t, KV, D), v.reshape(t, KV, D)
        if form.qk_norm == "head":
            q, k = self._norm(f"{block}q_norm", q), self._norm(f"{block}k_norm", k)
        if form.rope:
            q, k = (self._turned(layer, each) for each in (q, k))
        if form.qk_norm == "after":
            q, k = (self._norm(f"{block}{n}_norm", each) * form.qk_scale for n, each in (("q", q), ("k", k)))
        window = form.windows[form.kind(layer)]
        out = np.zeros((t, H, D))
        for i in range(t):
            first = max(0, i + 1 - window) if window else 0
            for h in range(H):
                keys, values = k[first : i + 1, h // (H // KV)], v[first : i + 1, h // (H // KV)]
                scores = keys @ q[i, h] * form.score_scale
                if form.score_cap:
                    scores = np.tanh(scores / form.score_cap) * form.score_cap
                shares = np.exp(scores - scores.max())
                out[i, h] = shares @ values / shares.sum()
        return self._linear(f"{block}proj", out.reshape(t, H * D))

    def _turned(self, layer: int, x: np.ndarray) -> np.ndarray:
        rates, factor = self.form.rope[self.form.kind(layer)].rates(self.form.D)
        angle = np.arange(len(x))[:, None, None] * rates
        cosine, sine, d = np.cos(angle) * factor, np.sin(angle) * factor, 2 * len(rates)
        a, b = x[..., 0:d:2], x[..., 1:d:2]
        y = x.copy()
        y[..., 0:d:2], y[..., 1:d:2] = a * cosine - b * sine, a * sine + b * cosine
        return y
