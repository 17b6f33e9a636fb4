"""The best that plain torch does here: the baseline of the decode benchmark, not a part of the product.

A static kv-cache, inference mode, fused scaled-dot-product attention, weights used as they lie in the model,
one token of every stream a step, greedy. Streams stand at the same position, which is the easy case for it.

B streams, t tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from niels_gpt.model import rope
from niels_gpt.model.gpt import GPT


class EagerDecoder:
    """Greedy decoding of B equal-length prompts with a `GPT`."""

    def __init__(self, model: GPT, *, streams: int) -> None:
        cfg = model.cfg
        self._model = model
        self._sin, self._cos = rope.rope_cache(cfg.T, cfg.D, theta=cfg.rope_theta)
        shape = (cfg.L, streams, cfg.H, cfg.T, cfg.D)
        self._k, self._v = torch.zeros(shape), torch.zeros(shape)

    @torch.inference_mode()
    def run(self, prompt: Tensor, *, new_tokens: int) -> Tensor:
        """Return the drawn ids (B, new_tokens) after prompts (B, t)."""
        drawn, at = [self._forward(prompt, 0)], prompt.shape[1]
        while len(drawn) < new_tokens:
            drawn.append(self._forward(drawn[-1][:, None], at))
            at += 1
        return torch.stack(drawn, dim=1)

    def _forward(self, ids: Tensor, start: int) -> Tensor:
        (B, t), cfg = ids.shape, self._model.cfg
        end = start + t
        sin, cos = self._sin[:, :, start:end], self._cos[:, :, start:end]
        x = functional.embedding(ids, self._model.tok_emb.weight)
        for i, block in enumerate(self._model.layers()):
            q, k, v = block.attn.qkv(block.ln1(x)).view(B, t, 3, cfg.H, cfg.D).permute(2, 0, 3, 1, 4)
            q, k = rope.apply_rope(q, k, sin, cos)
            self._k[i, :, :, start:end], self._v[i, :, :, start:end] = k, v
            keys, values = self._k[i, :, :, :end], self._v[i, :, :, :end]
            mixed = functional.scaled_dot_product_attention(q, keys, values, is_causal=t > 1)
            x = x + block.attn.proj(mixed.transpose(1, 2).reshape(B, t, cfg.C))
            x = x + block.mlp(block.ln2(x))
        return self._model.lm_head(self._model.ln_f(x[:, -1])).argmax(dim=-1)
