"""The best that plain torch does here: the baseline of the decode benchmark, not a part of the product.

A static kv-cache, inference mode, fused scaled-dot-product attention, rotary positions as one product of
complex numbers, residuals inside the matrix products, one token of every stream a step, greedy. One row goes
through MKL with transposed weights, which reads them fastest; several rows through oneDNN with weights that
were packed ahead, which computes fastest. Streams stand at the same position, which is the easy case.

The LayerNorm and GELU form only. B streams, t tokens, H heads, D head width, C width.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.candidates import Prompts
from niels_gpt.kernels import WeightForm
from niels_gpt.model import rope
from niels_gpt.model.blocks import NORM_EPS
from niels_gpt.model.gpt import GPT


class Linear:
    """x W' + bias, in the form that is fastest for the number of rows."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self._transposed = weight.detach().t().contiguous()
        self._bias = bias if bias is None else bias.detach()
        self._packed = None
        if torch.backends.mkldnn.is_available():
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach())  # noqa: SLF001

    def __call__(self, x: Tensor) -> Tensor:
        """Map x (rows, in) to (rows, out)."""
        if x.shape[0] > 1 and self._packed is not None:
            return torch.ops.mkldnn._linear_pointwise(x, self._packed, self._bias, "none", [], "")  # noqa: SLF001
        if self._bias is None:
            return x @ self._transposed
        return torch.addmm(self._bias, x, self._transposed)

    def onto(self, residual: Tensor, x: Tensor) -> Tensor:
        """Give residual + what x maps to; the residual's memory may be used."""
        if x.shape[0] > 1 and self._packed is not None:
            return torch.ops.mkldnn._linear_pointwise.binary(x, residual, self._packed, self._bias, "add")  # noqa: SLF001
        residual = residual if self._bias is None else residual.add_(self._bias)
        return torch.addmm(residual, x, self._transposed)


def scale_and_shift(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Give a LayerNorm's parameters."""
    scale, shift = norm.parameters()
    return scale.detach(), shift.detach()


@dataclass(frozen=True)
class Layer:
    """One layer's weights, ready to be used."""

    norm1: tuple[Tensor, Tensor]
    qkv: Linear
    proj: Linear
    norm2: tuple[Tensor, Tensor]
    up: Linear
    down: Linear


class EagerDecoder:
    """Greedy decoding of B equal-length prompts with a `GPT`."""

    def __init__(self, model: GPT) -> None:
        cfg = model.cfg
        if (cfg.norm, cfg.mlp) != ("layernorm", "gelu"):
            raise ValueError(f"got norm={cfg.norm!r}, mlp={cfg.mlp!r}; expected layernorm and gelu")
        self._cfg = cfg
        self._embedding = model.tok_emb.weight.detach()
        self._layers = [
            Layer(
                norm1=scale_and_shift(block.ln1),
                qkv=Linear(block.attn.qkv.weight),
                proj=Linear(block.attn.proj.weight),
                norm2=scale_and_shift(block.ln2),
                up=Linear(block.mlp.fc1.weight, block.mlp.fc1.bias),
                down=Linear(block.mlp.fc2.weight, block.mlp.fc2.bias),
            )
            for block in model.layers()
        ]
        self._final = scale_and_shift(model.ln_f)
        self._head = Linear(model.lm_head.weight)
        sin, cos = rope.rope_cache(cfg.T, cfg.D, theta=cfg.rope_theta)
        self._turn = torch.complex(cos, sin).view(cfg.T, 1, 1, cfg.D // 2)
        self._cache = torch.zeros(cfg.L, 2, 0, cfg.H, cfg.T, cfg.D)
        self._at = 0

    def start(self, prompts: Tensor) -> Tensor:
        """Read prompts (B, t) into an empty cache; the ids (B,) drawn after them."""
        self.forget(streams=len(prompts))
        return self.step(prompts)

    def step(self, ids: Tensor) -> Tensor:
        """Read the next tokens (B, t) of every stream; the ids (B,) drawn after them."""
        return self.logits(ids).argmax(dim=-1)

    def forget(self, *, streams: int) -> None:
        """Go back to the start, with a cache for B streams, which is kept as long as B stays."""
        self._at = 0
        if self._cache.shape[2] != streams:
            cfg = self._cfg
            self._cache = torch.zeros(cfg.L, 2, streams, cfg.H, cfg.T, cfg.D)

    @torch.inference_mode()
    def logits(self, ids: Tensor) -> Tensor:
        """Read the next tokens (B, t) of every stream; the logits (B, V) after the last of them."""
        (B, t), cfg = ids.shape, self._cfg
        start, end = self._at, self._at + t
        self._at = end
        turn, width = self._turn[start:end], (cfg.C,)
        x = functional.embedding(ids.reshape(-1), self._embedding)
        for cache, layer in zip(self._cache, self._layers, strict=True):
            qkv = layer.qkv(functional.layer_norm(x, width, *layer.norm1, NORM_EPS)).view(
                B, t, 3, cfg.H, cfg.D
            )
            pairs = torch.view_as_complex(qkv[:, :, :2].unflatten(-1, (-1, 2)))
            pairs.mul_(turn)
            heads = qkv.permute(2, 0, 3, 1, 4)
            cache[:, :, :, start:end] = heads[1:]
            mixed = functional.scaled_dot_product_attention(
                heads[0], cache[0, :, :, :end], cache[1, :, :, :end], is_causal=t > 1
            )
            x = layer.proj.onto(x, mixed.transpose(1, 2).reshape(B * t, cfg.C))
            up = functional.gelu(layer.up(functional.layer_norm(x, width, *layer.norm2, NORM_EPS)))
            x = layer.down.onto(x, up)
        last = x.view(B, t, cfg.C)[:, -1]
        return self._head(functional.layer_norm(last, width, *self._final, NORM_EPS))


class EagerCandidate:
    """`EagerDecoder` on torch's threads; see `bench.candidates.Candidate`."""

    def __init__(self, model: GPT, *, threads: int) -> None:
        torch.set_num_threads(threads)
        self._decoder = EagerDecoder(model)

    def logits(self, prompts: Prompts) -> np.ndarray:
        """(B, V) after a prompt and one step."""
        ids = torch.tensor(prompts)
        self._decoder.start(ids[:, :-1])
        return self._decoder.logits(ids[:, -1:]).numpy()

    def first_token(self, prompt: Sequence[int]) -> float:
        """The whole prompt in one forward pass."""
        began = time.perf_counter()
        self._decoder.start(torch.tensor([prompt])).tolist()
        return time.perf_counter() - began

    def decode(self, prompts: Prompts, new_tokens: int) -> float:
        """One forward pass a step; the ids stay in tensors until the end."""
        ids = self._decoder.start(torch.tensor(prompts))
        drawn = []
        began = time.perf_counter()
        for _ in range(new_tokens - 1):
            ids = self._decoder.step(ids[:, None])
            drawn.append(ids)
        torch.stack(drawn).tolist()
        return time.perf_counter() - began


def make(model: GPT, *, threads: int, form: WeightForm) -> EagerCandidate:  # noqa: ARG001 - float32 only
    """The candidate of this module."""
    return EagerCandidate(model, threads=threads)
