"""The parts of a pre-norm transformer: causal attention with RoPE, the two MLP forms, the residual block.

Two ways through the attention, with the same weights: `forward` over whole sequences from position 0
(training), and `forward_cached` over the next tokens of sequences whose keys and values lie in a cache.

B batch, t tokens at hand, T context window, S room in the cache, C width, H heads, D width of a head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from niels_gpt.model import rope
from niels_gpt.model.config import NORM_EPS, ModelConfig


def make_norm(cfg: ModelConfig) -> nn.Module:
    """Return the norm over C channels that the config asks for."""
    if cfg.norm == "layernorm":
        return nn.LayerNorm(cfg.C, eps=NORM_EPS)
    return nn.RMSNorm(cfg.C, eps=NORM_EPS)


@dataclass(frozen=True)
class Places:
    """Where the tokens at hand stand in a cache: made once for a forward, used by every layer."""

    rows: Tensor
    """(B, 1), each sequence's row in the cache."""
    positions: Tensor
    """(B, t), counted from 0 in each sequence."""
    visible: Tensor
    """(B, 1, t, S), true for the keys 0..own position."""
    sin: Tensor
    """(B, 1, t, D/2), RoPE angles of the positions; so is `cos`."""
    cos: Tensor


class CausalSelfAttention(nn.Module):
    """Multi-head attention in which position i sees positions 0..i; no biases."""

    rope_sin: Tensor
    rope_cos: Tensor

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.H, self.D = cfg.H, cfg.D
        self.dropout = cfg.dropout
        self.qkv = nn.Linear(cfg.C, 3 * cfg.C, bias=False)
        self.proj = nn.Linear(cfg.C, cfg.C, bias=False)
        sin, cos = rope.rope_cache(cfg.T, cfg.D, theta=cfg.rope_theta)
        # Derived from the config, so not part of the state dict.
        self.register_buffer("rope_sin", sin, persistent=False)
        self.register_buffer("rope_cos", cos, persistent=False)

    def forward(self, x: Tensor, *, return_attn: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Map x (B, t, C) to (B, t, C); `return_attn` adds the probabilities before dropout, (B, H, t, t)."""
        q, k, v = self._heads(x)
        q, k = rope.apply_rope(q, k, self.rope_sin, self.rope_cos)
        dropout = self.dropout if self.training else 0.0
        if not return_attn:
            y = functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
            return self._join(y)
        t = x.shape[1]
        probs = _probabilities(q, k, torch.ones(t, t, dtype=torch.bool, device=x.device).tril())
        return self._join(functional.dropout(probs, dropout) @ v), probs

    def place(self, start: Tensor, t: int, S: int) -> Places:
        """Return where t tokens from `start` (B,) on stand in a cache of S; the same for every layer."""
        positions = start[:, None] + torch.arange(t, device=start.device)
        slots = torch.arange(S, device=start.device)
        return Places(
            rows=torch.arange(start.shape[0], device=start.device)[:, None],
            positions=positions,
            visible=(slots <= positions[..., None])[:, None],
            sin=self.rope_sin[0, 0, positions][:, None],
            cos=self.rope_cos[0, 0, positions][:, None],
        )

    def forward_cached(
        self, x: Tensor, k_cache: Tensor, v_cache: Tensor, places: Places, *, return_attn: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Attend from x (B, t, C) to the cache and to x itself, up to each token's own place; no dropout.

        Writes the new keys and values into k_cache and v_cache, (B, H, S, D), at their places. What lies
        beyond a row's own places must be finite: it gets weight 0, and 0 times NaN is NaN.
        Returns (B, t, C) and, if asked for, the probabilities (B, H, t, S).
        """
        q, k, v = self._heads(x)
        q, k = rope.apply_rope(q, k, places.sin, places.cos)
        k_cache[places.rows, :, places.positions] = k.transpose(1, 2)
        v_cache[places.rows, :, places.positions] = v.transpose(1, 2)
        if return_attn:
            probs = _probabilities(q, k_cache, places.visible)
            return self._join(probs @ v_cache), probs
        y = functional.scaled_dot_product_attention(q, k_cache, v_cache, attn_mask=places.visible)
        return self._join(y), None

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return q, k, v of x (B, t, C), each (B, H, t, D); the rows of `qkv` are the three in thirds."""
        B, t, _ = x.shape
        q, k, v = self.qkv(x).view(B, t, 3, self.H, self.D).permute(2, 0, 3, 1, 4)
        return q, k, v

    def _join(self, y: Tensor) -> Tensor:
        """Lay the heads' outputs (B, H, t, D) side by side and project them to (B, t, C)."""
        return self.proj(y.transpose(1, 2).flatten(2))


def _probabilities(q: Tensor, k: Tensor, visible: Tensor) -> Tensor:
    """Return softmax(q k^T / sqrt(D)) over the visible keys: (B, H, t, S), zero where not visible."""
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    return scores.masked_fill(~visible, -math.inf).softmax(dim=-1)


class MLP(nn.Module):
    """fc2(gelu(fc1(x))) with the exact GELU, or fc_out(silu(fc_g(x)) * fc_a(x)), by the config."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        bias = cfg.mlp_has_bias
        self.gated = cfg.mlp == "swiglu"
        if self.gated:
            self.fc_a = nn.Linear(cfg.C, cfg.d_ff, bias=bias)
            self.fc_g = nn.Linear(cfg.C, cfg.d_ff, bias=bias)
            self.fc_out = nn.Linear(cfg.d_ff, cfg.C, bias=bias)
        else:
            self.fc1 = nn.Linear(cfg.C, cfg.d_ff, bias=bias)
            self.fc2 = nn.Linear(cfg.d_ff, cfg.C, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, t, C) to (B, t, C)."""
        if self.gated:
            return self.fc_out(functional.silu(self.fc_g(x)) * self.fc_a(x))
        return self.fc2(functional.gelu(self.fc1(x)))


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)), with dropout on both branches."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.ln1 = make_norm(cfg)
        self.attn = CausalSelfAttention(cfg)
        self.ln2 = make_norm(cfg)
        self.mlp = MLP(cfg)
        self.drop = nn.Dropout(cfg.dropout)

    def forward(self, x: Tensor, *, return_attn: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Map x (B, t, C) to (B, t, C); `return_attn` adds the probabilities before dropout, (B, H, t, t)."""
        if return_attn:
            y, probs = self.attn(self.ln1(x), return_attn=True)
            return self._rest(x, y), probs
        return self._rest(x, self.attn(self.ln1(x)))

    def forward_cached(
        self, x: Tensor, k_cache: Tensor, v_cache: Tensor, places: Places, *, return_attn: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """The same for the next tokens of cached sequences; see `CausalSelfAttention.forward_cached`."""
        y, probs = self.attn.forward_cached(self.ln1(x), k_cache, v_cache, places, return_attn=return_attn)
        x = x + y
        return x + self.mlp(self.ln2(x)), probs

    def _rest(self, x: Tensor, y: Tensor) -> Tensor:
        x = x + self.drop(y)
        return x + self.drop(self.mlp(self.ln2(x)))


def init_weights(module: nn.Module) -> None:
    """Start `module` and all inside it: linear and embedding normal(0, 0.02), biases 0, norms 1."""
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Embedding)):
            nn.init.normal_(part.weight, mean=0.0, std=0.02)
        elif isinstance(part, (nn.LayerNorm, nn.RMSNorm)):
            nn.init.ones_(part.weight)
        bias = getattr(part, "bias", None)
        if isinstance(bias, nn.Parameter):
            nn.init.zeros_(bias)
