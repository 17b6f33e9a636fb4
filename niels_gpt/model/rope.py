"""Rotary position embedding over adjacent pairs (Su et al. 2021, arXiv 2104.09864, section 3.4).

Pair i of a head, the channels (2i, 2i + 1), is turned by the angle position * theta ** (-2i / D). The dot
product of a query and a key then depends on their distance alone.

B batch, H heads, T positions in the cache, Tq positions at hand, D width of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rope_cache(
    T: int,
    D: int,
    *,
    theta: float = 10000.0,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Return (sin, cos) of the angles at positions 0..T-1, each (1, 1, T, D/2), float32 unless said.

    Raises ValueError for T < 1 or a D that is not a positive even number.
    """
    if T < 1 or D < 2 or D % 2 != 0:
        raise ValueError(f"rope_cache got T={T!r}, D={D!r}, expected T >= 1 and an even D >= 2")
    # float64, on the CPU because some devices have none: in float32 the error grows with the position.
    rate = theta ** (-torch.arange(0, D, 2, dtype=torch.float64) / D)  # (D/2,)
    angle = torch.arange(T, dtype=torch.float64)[:, None] * rate  # (T, D/2)
    out = torch.float32 if dtype is None else dtype
    return angle.sin()[None, None].to(device, out), angle.cos()[None, None].to(device, out)


def apply_rope(q: Tensor, k: Tensor, sin: Tensor, cos: Tensor) -> tuple[Tensor, Tensor]:
    """Turn q and k, both (B, H, Tq, D), by the first Tq angles of sin and cos, (1 or B, 1, T >= Tq, D/2).

    Rows at other positions come with angles that were gathered for them. Returns tensors of the inputs'
    shapes and dtypes. Raises ValueError when the shapes do not fit.
    """
    Tq, D = q.shape[-2:]
    if k.shape != q.shape or sin.shape != cos.shape or sin.shape[-2] < Tq or 2 * sin.shape[-1] != D:
        shapes = ", ".join(str(tuple(x.shape)) for x in (q, k, sin, cos))
        msg = f"apply_rope got q, k, sin, cos of shapes {shapes}"
        raise ValueError(f"{msg}; expected equal q and k (B, H, Tq, D) and angles (1 or B, 1, T >= Tq, D/2)")
    sin, cos = sin[..., :Tq, :], cos[..., :Tq, :]
    return _turn(q, sin, cos), _turn(k, sin, cos)


def _turn(x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
    even, odd = x[..., 0::2], x[..., 1::2]  # (B, H, Tq, D/2) each
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return turned.flatten(-2).to(x.dtype)
