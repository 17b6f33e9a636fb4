"""The decoder-only transformer: embedding, L pre-norm blocks, a final norm, and a head tied to the embedding.

Parameter names (`tok_emb`, `blocks.N...`, `ln_f`, `lm_head`) are those of the original project, so that its
checkpoints load.

B batch, t tokens at hand, T context window, C width, H heads, D head width, V vocabulary, L layers, S
cached positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from niels_gpt.model.blocks import Block, init_weights, make_norm
from niels_gpt.model.config import ModelConfig
from niels_gpt.model.delegates import ModelMethods


@dataclass
class GPTState:
    """Keys and values of B sequences that stand anywhere."""

    k: Tensor
    """(L, B, H, room, D); so is `v`. Positions behind a row's own end are written before they are read."""
    v: Tensor
    start: Tensor
    """(B,) int64: tokens that each has read."""

    def select(self, rows: Tensor) -> GPTState:
        """Return the state of these sequences, in this order; one may come several times."""
        rows = rows.to(self.start.device)
        return GPTState(self.k[:, rows], self.v[:, rows], self.start[rows])


class GPT(ModelMethods, nn.Module):
    """Token ids in, logits of the next token out. Weights start from torch's global generator."""

    arch: Literal["gpt"] = "gpt"

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.tok_emb = nn.Embedding(cfg.V, cfg.C)
        self.drop = nn.Dropout(cfg.dropout)
        self.blocks = nn.ModuleList([Block(cfg) for _ in range(cfg.L)])
        self.ln_f = make_norm(cfg)
        self.lm_head = nn.Linear(cfg.C, cfg.V, bias=False)
        if cfg.tie_embeddings:
            self.lm_head.weight = self.tok_emb.weight
        init_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map ids (B, t) int64 to logits (B, t, V) float32; AssertionError for t beyond T."""
        h = self.embed(x)
        for block in self.blocks:
            h = block(h)
        return self.head(h)

    def forward_with_attn_trace(
        self, x: Tensor, *, trace_layer: int, return_full_attn: bool = False
    ) -> tuple[Tensor, dict[str, int | Tensor | None]]:
        """Like `forward`, and what the last token of each row attends to in layer `trace_layer`, from 0.

        Returns logits (B, t, V) and {"layer", "attn_row" (B, H, t), "attn_full" (B, H, t, t) or None}: the
        probabilities before dropout. Raises ValueError for a layer that does not exist.
        """
        self.check_layer(trace_layer)
        h = self.embed(x)
        probs = h  # replaced below: trace_layer is one of the blocks
        for layer, block in enumerate(self.blocks):
            if layer == trace_layer:
                h, probs = block(h, return_attn=True)
            else:
                h = block(h)
        full = probs if return_full_attn else None
        return self.head(h), {"layer": trace_layer, "attn_row": probs[:, :, -1, :], "attn_full": full}

    def forward_cached(
        self, x: Tensor, k: Tensor, v: Tensor, start: Tensor, *, trace_layer: int | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Read ids (B, t) that stand from `start` (B,) on in a cache k, v (L, B, H, S, D), written in place.

        S must be the end of the longest row. Returns logits (B, t, V) and that layer's attention
        probabilities (B, H, t, S), if asked for. `niels_gpt.model.kv_cache` checks what comes in.
        """
        layers = self.layers()
        places = layers[0].attn.place(start, x.shape[1], k.shape[3])
        h, found = self.tok_emb(x), None
        for layer, block in enumerate(layers):
            traced = layer == trace_layer
            h, probs = block.forward_cached(h, k[layer], v[layer], places, return_attn=traced)
            found = probs if traced else found
        return self.head(h), found

    def new_state(self, B: int, room: int) -> GPTState:
        """Return the state of B sequences of at most `room` tokens before their first."""
        cfg, weight = self.cfg, self.tok_emb.weight
        k = torch.zeros((cfg.L, B, cfg.H, room, cfg.D), device=weight.device, dtype=weight.dtype)
        return GPTState(k, torch.zeros_like(k), torch.zeros(B, dtype=torch.int64, device=weight.device))

    @torch.no_grad()
    def forward_from(self, x: Tensor, state: GPTState, lengths: Tensor | None = None) -> Tensor:
        """Read the next ids (B, t) of B sequences and give their logits (B, t, V); moves `state` on.

        With `lengths` (B,), the ids of a row beyond its length are not there: the next ones take their place,
        and their logits mean nothing.
        """
        t = x.shape[1]
        end = int(state.start.max()) + t
        logits, _ = self.forward_cached(x, state.k[:, :, :, :end], state.v[:, :, :, :end], state.start)
        state.start = state.start + (t if lengths is None else lengths.to(state.start.device))
        return logits

    def embed(self, x: Tensor) -> Tensor:
        """Return the embedded ids (B, t, C), with dropout in training; AssertionError for t beyond T."""
        if x.shape[1] > self.cfg.T:
            msg = f"got {x.shape[1]} tokens, the context window holds T={self.cfg.T}; crop to the last T"
            raise AssertionError(msg)
        return self.drop(self.tok_emb(x))

    def head(self, h: Tensor) -> Tensor:
        """Map the blocks' output (B, t, C) to logits (B, t, V) float32."""
        return self.lm_head(self.ln_f(h)).float()

    def layers(self) -> list[Block]:
        """Return the blocks in order, typed."""
        return [cast("Block", block) for block in self.blocks]

    def check_layer(self, layer: int) -> None:
        """Raise ValueError unless `layer` is one of 0..L-1."""
        if not 0 <= layer < self.cfg.L:
            raise ValueError(f"there is no layer {layer!r}, expected 0 to {self.cfg.L - 1}")
