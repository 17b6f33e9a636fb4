"""Cached decoding of a GPT: `forward_cached`, and the prefill and decode steps that are built on it.

A cache holds the keys and values of tokens already seen, so that a new token costs one position instead of
all of them. One function does all cached arithmetic; everything else here is bookkeeping for sequences that
stand at the same position.

B batch, t tokens at hand, S room in the cache, L layers, H heads, D width of a head, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from niels_gpt.model.gpt import GPT


@dataclass
class KVCache:
    """Keys and values (L, B, H, T_max, D), of which the first `t` positions are filled."""

    k: Tensor
    v: Tensor
    t: int = 0


def allocate_kv_cache(
    *, L: int, B: int, H: int, T_max: int, D: int, device: str | torch.device, dtype: torch.dtype
) -> KVCache:
    """Return an empty cache with room for T_max positions; ValueError for a size below 1."""
    shape = (L, B, H, T_max, D)
    if min(shape) < 1:
        raise ValueError(f"the cache's shape (L, B, H, T_max, D) is {shape}, expected sizes from 1")
    # Zeros and not empty: unseen positions get weight 0, and 0 times a leftover NaN would be NaN.
    k = torch.zeros(shape, device=device, dtype=dtype)
    return KVCache(k=k, v=torch.zeros_like(k))


@torch.no_grad()
def forward_cached(
    model: GPT, ids: Tensor, k: Tensor, v: Tensor, start: Tensor, *, trace_layer: int | None = None
) -> tuple[Tensor, Tensor | None]:
    """Run the next t tokens of B sequences, each at its own position, through the model.

    ids (B, t) int64: row b's tokens stand at positions start[b] .. start[b] + t - 1.
    k, v (L, B, H, S, D): keys and values of those positions are written here in place. Row b must hold its
        keys 0 .. start[b] - 1; whatever lies beyond is never seen, but must be finite (not NaN).
    start (B,) int64, on the device of `ids`.

    Each token sees exactly the keys 0 .. its own position of its own row. No dropout, whatever the model's
    mode; no gradients. Returns logits (B, t, V) float32 and, with `trace_layer`, that layer's attention
    probabilities (B, H, t, S), zero where nothing is seen; else None.
    Raises ValueError for shapes that do not fit, a layer that does not exist, or positions beyond S or T.
    """
    B, t = _check(model, ids, k, v, start)
    if trace_layer is not None:
        model.check_layer(trace_layer)
    used = int(start.max()) + t
    room = min(k.shape[3], model.cfg.T)
    if used > room or int(start.min()) < 0:
        raise ValueError(
            f"positions {start.tolist()} and {t} tokens each leave the cache's and model's {room}"
        )
    logits, probs = model.forward_cached(
        ids, k[:, :, :, :used], v[:, :, :, :used], start, trace_layer=trace_layer
    )
    if probs is None:
        return logits, None
    attn = probs.new_zeros(B, model.cfg.H, t, k.shape[3])
    attn[..., :used] = probs
    return logits, attn


def prefill(
    model: GPT,
    prompt_ids: Tensor,
    cache: KVCache,
    *,
    trace_layer: int | None = None,
    return_attn_row: bool = False,
) -> tuple[Tensor, KVCache, dict[str, int | Tensor] | None]:
    """Fill an empty cache with prompts (B, t0) of one length.

    Returns the logits (B, t0, V), whose last row is what the first new token is chosen from, the same cache
    with `t` = t0, and {"layer", "attn_row" (B, H, t0)} of the last token if it was asked for.
    Raises ValueError for a cache that is in use or too small, or an attention row without its layer.
    """
    if cache.t != 0:
        raise ValueError(f"prefill got a cache that holds {cache.t} tokens, expected an empty one")
    return _advance(model, prompt_ids, cache, trace_layer, return_attn_row)


def decode_step(
    model: GPT,
    last_token_ids: Tensor,
    cache: KVCache,
    *,
    trace_layer: int | None = None,
    return_attn_row: bool = False,
) -> tuple[Tensor, KVCache, dict[str, int | Tensor] | None]:
    """Append one new token to each sequence, (B, 1), after what the cache holds.

    Returns the logits (B, 1, V), the same cache with `t` one higher, and {"layer", "attn_row" (B, H, t)} if
    it was asked for. Raises ValueError for an empty or full cache.
    """
    if cache.t == 0:
        raise ValueError("decode_step got an empty cache; prefill it with the prompt first")
    if last_token_ids.shape[-1] != 1:
        raise ValueError(f"decode_step got ids of shape {tuple(last_token_ids.shape)}, expected (B, 1)")
    return _advance(model, last_token_ids, cache, trace_layer, return_attn_row)


def _advance(
    model: GPT,
    ids: Tensor,
    cache: KVCache,
    trace_layer: int | None,
    wants_row: bool,  # noqa: FBT001
) -> tuple[Tensor, KVCache, dict[str, int | Tensor] | None]:
    if wants_row and trace_layer is None:
        raise ValueError("return_attn_row needs trace_layer, the layer whose attention is wanted")
    start = torch.full((ids.shape[0],), cache.t, dtype=torch.long, device=ids.device)
    layer = trace_layer if wants_row else None
    logits, attn = forward_cached(model, ids, cache.k, cache.v, start, trace_layer=layer)
    cache.t += ids.shape[1]
    if attn is None or layer is None:
        return logits, cache, None
    return logits, cache, {"layer": layer, "attn_row": attn[:, :, -1, : cache.t]}


def _check(model: GPT, ids: Tensor, k: Tensor, v: Tensor, start: Tensor) -> tuple[int, int]:
    if ids.dim() != 2 or ids.shape[1] < 1 or ids.shape[0] < 1:
        raise ValueError(f"ids have shape {tuple(ids.shape)}, expected (B, t) with at least one token")
    B, t = ids.shape
    cfg = model.cfg
    if k.dim() != 5 or k.shape != v.shape or (*k.shape[:3], k.shape[4]) != (cfg.L, B, cfg.H, cfg.D):
        expected = f"({cfg.L}, {B}, {cfg.H}, S, {cfg.D})"
        raise ValueError(f"k {tuple(k.shape)} and v {tuple(v.shape)} do not fit, expected {expected} each")
    if start.shape != (B,):
        raise ValueError(f"start has shape {tuple(start.shape)}, expected ({B},): one position a row")
    return B, t
