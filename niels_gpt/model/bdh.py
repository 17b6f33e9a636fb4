"""Baby Dragon Hatchling: one layer used L times, sparse positive latents, linear attention, no softmax.

Kosowski et al. 2025, arXiv 2509.26507, in the form of their reference implementation, whose parameter names
are kept so that its checkpoints load. Two ways to compute the same: `forward` over whole sequences, with
all scores strictly below the diagonal, and `forward_from` with what earlier tokens left in a state of
constant size. Different from the reference in one point: phases are multiplied and reduced in float64,
where float32 would lose them after some thousand tokens.

B batch, t tokens at hand, C width, H heads, N width of a head's latents, V vocabulary, L times the layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, overload

import torch
from torch import Tensor, nn
from torch.nn import functional

from niels_gpt.model.config import ARCHITECTURES, ModelConfig
from niels_gpt.model.delegates import ModelMethods

NORM_EPS = 1e-5
QUANTUM = 2  # latents that share a frequency: a pair is turned as one


@dataclass(frozen=True, kw_only=True)
class BDHConfig:
    """The sizes of a BDH by the names of the reference; `model_config` gives them in this project's."""

    n_layer: int = 6
    n_embd: int = 256
    dropout: float = 0.1
    n_head: int = 4
    mlp_internal_dim_multiplier: int = 128
    vocab_size: int = 256
    block_size: int = 512
    """Tokens of a text in training."""

    @property
    def model_config(self) -> ModelConfig:
        """Return the same sizes as a `ModelConfig`."""
        defaults = ARCHITECTURES["bdh"] | {
            "V": self.vocab_size,
            "T": self.block_size,
            "C": self.n_embd,
            "L": self.n_layer,
            "H": self.n_head,
            "d_ff": self.mlp_internal_dim_multiplier * self.n_embd,
            "dropout": self.dropout,
        }
        return ModelConfig(arch="bdh", **defaults)


class Phases(nn.Module):
    """How fast each latent's pair is turned, in turns a token; under the name `attn.freqs` in a checkpoint.

    A buffer and no constant: what a checkpoint holds decides, to the last bit.
    """

    freqs: Tensor

    def __init__(self, N: int, theta: float) -> None:
        super().__init__()
        exponents = torch.arange(N, dtype=torch.float32).div(QUANTUM).floor() * QUANTUM / N
        freqs = 1.0 / theta**exponents / (2 * math.pi)
        self.register_buffer("freqs", freqs.view(1, 1, 1, N))

    def tables(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosine and sine of the phases of positions (B or 1, t): (B or 1, 1, t, N) each."""
        device = self.freqs.device
        exact = torch.device("cpu") if device.type == "mps" else device  # which has no float64
        # The product of a float32 and a position is exact in float64, and so is what is left of its turns.
        phases = positions.to(exact).double()[:, None, :, None] * self.freqs.to(exact).double() % 1.0
        angles = (phases * (2 * math.pi)).to(device, self.freqs.dtype)
        return angles.cos(), angles.sin()


def _turn(x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the pairs of x (B, H, t, N)."""
    cos, sin = tables
    crossed = torch.stack((-x[..., 1::2], x[..., 0::2]), dim=-1).flatten(-2)
    return x * cos + crossed * sin


@dataclass
class BDHState:
    """State of B sequences: sums over their tokens, of one size for any number of tokens."""

    sums: Tensor
    """(L, B, H, N, C), of the turned latents' outer products with what the layer was given."""
    start: Tensor
    """(B,) int64 on the CPU: tokens that each has read."""

    def select(self, rows: Tensor) -> BDHState:
        """Return the state of these sequences, in this order; one may come several times."""
        return BDHState(self.sums[:, rows.to(self.sums.device)], self.start[rows])


Attend = Callable[[Tensor, Tensor, int], Tensor]
"""From turned latents (B, H, t, N), what the layer was given (B, 1, t, C) and its number, to (B, H, t, C)."""


class BDH(ModelMethods, nn.Module):
    """Token ids in, logits of the next token out. Weights start from torch's global generator."""

    arch: Literal["bdh"] = "bdh"

    def __init__(self, config: ModelConfig | BDHConfig) -> None:
        super().__init__()
        cfg = config.model_config if isinstance(config, BDHConfig) else config
        self.cfg = cfg
        H, C, N = cfg.H, cfg.C, cfg.d_ff // cfg.H
        self.H, self.N = H, N
        self.decoder = nn.Parameter(torch.empty(H * N, C))
        self.encoder = nn.Parameter(torch.empty(H, C, N))
        self.attn = Phases(N, cfg.rope_theta)
        self.embed = nn.Embedding(cfg.V, C)
        self.drop = nn.Dropout(cfg.dropout)
        self.encoder_v = nn.Parameter(torch.empty(H, C, N))
        self.lm_head = nn.Parameter(torch.empty(C, cfg.V))
        for parameter in self.parameters():
            nn.init.normal_(parameter, mean=0.0, std=0.02)

    @overload
    def forward(self, x: Tensor, targets: None = None) -> Tensor: ...

    @overload
    def forward(self, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]: ...

    def forward(self, x: Tensor, targets: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Map ids (B, t) int64 to logits (B, t, V) float32; the scores take B * H * t * t numbers.

        With `targets` (B, t) int64, return (logits, loss): the mean cross-entropy in nats per target.
        """
        logits = self.head(self.hidden(x))
        if targets is None:
            return logits
        return logits, nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def hidden(self, x: Tensor) -> Tensor:
        """Map ids (B, t) to what the head reads, (B, t, C)."""
        positions = torch.arange(x.shape[1])[None]

        def attend(k: Tensor, v: Tensor, _layer: int) -> Tensor:
            return (k @ k.mT).tril(diagonal=-1) @ v

        return self._through(x, positions, attend)

    def head(self, h: Tensor) -> Tensor:
        """Map (..., C) to logits (..., V) float32."""
        return (h @ self.lm_head).float()

    def layers(self) -> list[nn.Module]:
        """Parts that can be compiled, recomputed or held apart: none, the one layer is the model itself."""
        return []

    def new_state(self, B: int, room: int) -> BDHState:
        """Return the state of B sequences before their first token; `room` changes nothing here."""
        del room
        cfg, weight = self.cfg, self.decoder
        return BDHState(
            sums=weight.new_zeros((cfg.L, B, cfg.H, self.N, cfg.C), requires_grad=False),
            start=torch.zeros(B, dtype=torch.int64),
        )

    @torch.no_grad()
    def forward_from(self, x: Tensor, state: BDHState, lengths: Tensor | None = None) -> Tensor:
        """Read the next ids (B, t) of B sequences and give their logits (B, t, V); moves `state` on.

        With `lengths` (B,), the ids of a row beyond its length are not there: they leave no trace, and their
        logits mean nothing. The state grows with neither t nor the tokens read before.
        """
        B, t = x.shape
        positions = state.start[:, None] + torch.arange(t)
        there = None
        if lengths is not None:
            there = (torch.arange(t) < lengths.cpu()[:, None])[:, None, :, None].to(x.device)

        def attend(k: Tensor, v: Tensor, layer: int) -> Tensor:
            known = k if there is None else k * there
            y = k @ state.sums[layer] + (k @ known.mT).tril(diagonal=-1) @ v
            state.sums[layer] += known.mT @ v
            return y

        logits = self.head(self._through(x, positions, attend))
        state.start = state.start + (torch.full((B,), t) if lengths is None else lengths.cpu())
        return logits

    def _through(self, ids: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        tables = self.attn.tables(positions)
        x = self._norm(self.embed(ids))[:, None]  # (B, 1, t, C)
        for layer in range(self.cfg.L):
            latents = functional.relu(x @ self.encoder)  # (B, H, t, N)
            y = self._norm(attend(_turn(latents, tables), x, layer))  # (B, H, t, C)
            gated = self.drop(latents * functional.relu(y @ self.encoder_v))
            out = gated.transpose(1, 2).flatten(2)[:, None] @ self.decoder  # (B, 1, t, C)
            x = self._norm(x + self._norm(out))
        return x[:, 0]

    def _norm(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, (self.cfg.C,), eps=NORM_EPS)
