"""The decoder-only transformer: embedding, L pre-norm blocks, a final norm, and a head tied to the embedding.

Parameter names (`tok_emb`, `blocks.N...`, `ln_f`, `lm_head`) are those of the original project, so that its
checkpoints load. Knows nothing about tokenizers, sampling or caches.

B batch, t tokens at hand, T context window, C width, H heads, V vocabulary, L layers.
"""

from __future__ import annotations

from typing import Literal, cast

from torch import Tensor, nn

from niels_gpt.config import ModelConfig
from niels_gpt.model.blocks import Block, init_weights, make_norm


class GPT(nn.Module):
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
