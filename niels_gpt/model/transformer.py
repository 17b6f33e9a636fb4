"""The torch model of a `Form`: the reference that the kernels are tested against, and what runs on GPUs.

It interprets the form with float32 arithmetic (float64 after `.double()`), one plain operation after the
other. Parameter names are those of `niels_gpt.model.weights`.

B batch, t tokens at hand, S cached positions, C width, H heads of queries, KV heads of keys and values,
G = H // KV queries for each of them, D width of a head, V vocabulary, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from niels_gpt.model.delegates import ModelMethods
from niels_gpt.model.form import VALUE_GATE_SCALE, Form
from niels_gpt.model.weights import Weights, dequantise

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "silu": functional.silu,
    "relu": functional.relu,
    "relu2": lambda x: functional.relu(x).square(),
}
FIRST_ROOM = 128

Tables = Sequence[tuple[Tensor, Tensor] | None]
"""Cosine and sine (B, 1, t, pairs) by kind of layer; None where nothing turns."""


@dataclass
class TransformerState:
    """Keys and values of B sequences that stand at any positions. The arrays grow as tokens arrive."""

    k: Tensor
    """(L, B, KV, S, D); so is `v`. Positions behind a row's own end are written before they are read."""
    v: Tensor
    start: Tensor
    """(B,) int64: tokens that each has read."""
    last: Tensor | None = None
    """(B, C): the embedding of each row's last token, where the form smears."""

    def select(self, rows: Tensor) -> TransformerState:
        """Return the state of these sequences, in this order; one may come several times."""
        rows = rows.to(self.start.device)
        last = None if self.last is None else self.last[rows]
        return TransformerState(self.k[:, rows], self.v[:, rows], self.start[rows], last)

    def reserve(self, room: int) -> None:
        """Make room for `room` positions."""
        have = self.k.shape[3]
        if room > have:
            more = max(room, 2 * have, FIRST_ROOM) - have
            self.k = functional.pad(self.k, (0, 0, 0, more))
            self.v = functional.pad(self.v, (0, 0, 0, more))


class Scale(nn.Module):
    """A few numbers that multiply something, as a module so that they have a `weight` as all others have."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))


@dataclass
class Pass:
    """The values that all layers of one forward pass share."""

    ids: Tensor
    """(B, t)."""
    tables: Tables
    seen: Sequence[Tensor]
    """(B or 1, 1, 1, t, S) by kind of layer: which keys each token attends to."""
    remember: Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]
    """From a layer and its new keys and values (B, KV, t, D) to all that its queries read."""


class TransformerBlock(nn.Module):
    """One layer of a form."""

    def __init__(self, form: Form, layer: int) -> None:
        super().__init__()
        H, KV, D = form.heads
        self.form, self.layer = form, layer

        def linear(inputs: int, outputs: int, bias: str) -> nn.Linear:
            return nn.Linear(inputs, outputs, bias=bias in form.biases)

        self.q = linear(form.C, H * D, "qkv")
        self.k = linear(form.C, KV * D, "qkv")
        self.v = linear(form.C, KV * D, "qkv")
        self.proj = linear(H * D, form.C, "proj")
        self.up = linear(form.C, form.d_ff, "up")
        self.gate = linear(form.C, form.d_ff, "gate") if form.gated else None
        self.down = linear(form.d_ff, form.C, "down")
        self.norms = nn.ModuleDict({name: make_norm(form, form.C) for name in form.norms if name != "embed"})
        self.q_norm = self.k_norm = None
        if form.qk_norm:
            self.q_norm = make_norm(form, H * D if form.qk_norm == "row" else D, bias=False)
            self.k_norm = make_norm(form, KV * D if form.qk_norm == "row" else D, bias=False)
        self.mix = Scale(2) if form.mix else None
        self.value_emb = self.value_gate = None
        if layer in form.value_layers:
            self.value_emb = nn.Embedding(form.V, KV * D)
            self.value_gate = nn.Linear(form.value_gate, KV, bias=False)

    def forward(self, x: Tensor, shared: Pass) -> Tensor:
        """Map the residual stream (B, t, C) to the next layer's."""
        form, scale = self.form, self.form.residual_scale
        if form.parallel:
            h = self._norm("attn_in", x)
            m = self._norm("mlp_in", x) if form.parallel == "two" else h
            return x + (self._attend(h, shared) + self._feed(m)) * scale
        x = x + self._norm("attn_out", self._attend(self._norm("attn_in", x), shared)) * scale
        return x + self._norm("mlp_out", self._feed(self._norm("mlp_in", x))) * scale

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return self.norms[name](x) if name in self.norms else x

    def _feed(self, x: Tensor) -> Tensor:
        act = ACTIVATIONS[self.form.mlp]
        return self.down(act(self.up(x)) if self.gate is None else act(self.gate(x)) * self.up(x))

    def _attend(self, x: Tensor, shared: Pass) -> Tensor:
        form, (H, KV, D), (B, t, _) = self.form, self.form.heads, x.shape
        q, k, v = self.q(x), self.k(x), self.v(x)
        if form.qk_norm == "row":
            q, k = self._normed(q, k)
        q, k, v = (y.view(B, t, -1, D).transpose(1, 2) for y in (q, k, v))  # (B, heads, t, D)
        if self.value_emb is not None and self.value_gate is not None:
            gate = VALUE_GATE_SCALE * torch.sigmoid(self.value_gate(x[..., : form.value_gate]))
            embedded = self.value_emb(shared.ids).view(B, t, KV, D).transpose(1, 2)
            v = v + gate.transpose(1, 2)[..., None] * embedded
        if form.qk_norm == "head":
            q, k = self._normed(q, k)
        kind = form.kind(self.layer)
        table = shared.tables[kind] if form.rope else None
        if table is not None:
            q, k = turn(q, *table), turn(k, *table)
        if form.qk_norm == "after":
            q, k = self._normed(q, k)
            q, k = q * form.qk_scale, k * form.qk_scale
        k, v = shared.remember(self.layer, k, v)
        grouped = q.reshape(B, KV, H // KV, t, D)
        scores = grouped @ k[:, :, None].mT * form.score_scale  # (B, KV, G, t, S)
        if form.score_cap:
            scores = torch.tanh(scores / form.score_cap) * form.score_cap
        probs = scores.masked_fill(~shared.seen[kind], -math.inf).softmax(-1)
        y = (probs @ v[:, :, None]).reshape(B, H, t, D)
        return self.proj(y.transpose(1, 2).flatten(2))

    def _normed(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        assert self.q_norm is not None  # noqa: S101 - the form has them
        assert self.k_norm is not None  # noqa: S101
        return self.q_norm(q), self.k_norm(k)


class Transformer(ModelMethods, nn.Module):
    """Token ids in, logits of the next token out, as a form says."""

    arch: Literal["transformer"] = "transformer"

    def __init__(self, form: Form) -> None:
        super().__init__()
        self.cfg = form
        self.tok_emb = nn.Embedding(form.V, form.C)
        self.pos_emb = nn.Embedding(form.T, form.C) if form.positions == "learned" else None
        self.blocks = nn.ModuleList(TransformerBlock(form, layer) for layer in range(form.L))
        self.ln_e = make_norm(form, form.C) if "embed" in form.norms else None
        self.ln_f = make_norm(form, form.C)
        self.smear = nn.Linear(form.smear, 1, bias=False) if form.smear else None
        self.smear_scale = Scale(1) if form.smear else None
        self.backout = Scale(1) if form.backout >= 0 else None
        self.head = nn.Linear(form.C, form.V, bias="head" in form.biases)
        if form.tied:
            self.head.weight = self.tok_emb.weight

    def forward(self, x: Tensor) -> Tensor:
        """Map ids (B, t) int64 to logits (B, t, V); AssertionError for t beyond T."""
        t = x.shape[1]
        if t > self.cfg.T:
            msg = f"got {t} tokens, the context window holds T={self.cfg.T}; crop to the last T"
            raise AssertionError(msg)
        positions = torch.arange(t, device=x.device)[None]
        shared = self._pass(x, positions, t, lambda _layer, k, v: (k, v))
        return self._through(shared, positions, None)[0]

    def new_state(self, B: int, room: int) -> TransformerState:
        """Return the state of B sequences before their first token, with room that grows up to `room`."""
        form, weight = self.cfg, self.tok_emb.weight
        shape = (form.L, B, form.KV, min(room, FIRST_ROOM), form.D)
        k = torch.zeros(shape, device=weight.device, dtype=weight.dtype)
        start = torch.zeros(B, dtype=torch.int64, device=weight.device)
        return TransformerState(k, torch.zeros_like(k), start)

    @torch.no_grad()
    def forward_from(self, x: Tensor, state: TransformerState, lengths: Tensor | None = None) -> Tensor:
        """Read the next ids (B, t) of B sequences, return their logits (B, t, V) and advance `state`.

        With `lengths` (B,), the ids of a row beyond its length are ignored: the next ones take their place,
        and their logits mean nothing. Positions beyond T raise AssertionError.
        """
        B, t = x.shape
        used = int(state.start.max()) + t
        if used > self.cfg.T + (0 if lengths is None else t):
            raise AssertionError(f"position {used - 1} is beyond the context window of T={self.cfg.T}")
        state.reserve(used)
        rows = torch.arange(B, device=x.device)[:, None]
        positions = state.start[:, None] + torch.arange(t, device=x.device)

        def remember(layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            state.k[layer][rows, :, positions] = k.transpose(1, 2)
            state.v[layer][rows, :, positions] = v.transpose(1, 2)
            return state.k[layer][:, :, :used], state.v[layer][:, :, :used]

        shared = self._pass(x, positions, used, remember)
        logits, embedded = self._through(shared, positions, state.last)
        count = torch.full((B,), t, device=x.device) if lengths is None else lengths.to(x.device)
        if self.smear is not None:
            state.last = embedded[rows[:, 0], (count - 1).clamp(min=0)]
        state.start = state.start + count
        return logits

    def layers(self) -> list[TransformerBlock]:
        """Return the blocks in order, typed."""
        return [cast("TransformerBlock", block) for block in self.blocks]

    def _pass(
        self,
        ids: Tensor,
        positions: Tensor,
        S: int,
        remember: Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]],
    ) -> Pass:
        form = self.cfg
        tables = []
        for rope in form.rope:
            rates, factor = rope.rates(form.D)
            # float64, because a float32 angle's error grows with the position; some devices have none.
            angle = positions.cpu()[:, None, None, :, None].double() * torch.from_numpy(rates)
            cos, sin = ((part * factor).to(self.tok_emb.weight) for part in (angle.cos(), angle.sin()))
            tables.append((cos[:, 0], sin[:, 0]) if rates.size else None)
        key = torch.arange(S, device=ids.device)
        query = positions[:, None, None, :, None]
        seen = [
            (key <= query) & (query - key < window) if window else key <= query for window in form.windows
        ]
        return Pass(ids, tables, seen, remember)

    def _through(self, shared: Pass, positions: Tensor, last: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return logits (B, t, V) and the embeddings (B, t, C) before smearing."""
        form = self.cfg
        x = self.tok_emb(shared.ids) * form.embed_scale
        if self.pos_emb is not None:
            x = x + self.pos_emb(positions.clamp(max=form.T - 1))
        if self.ln_e is not None:
            x = self.ln_e(x)
        embedded = x
        x = first = self._smeared(x, last)
        middle: Tensor | None = None
        for layer, block in enumerate(self.layers()):
            if block.mix is not None:
                x = block.mix.weight[0] * x + block.mix.weight[1] * first
            x = block(x, shared)
            if layer == form.backout:
                middle = x
        if self.backout is not None and middle is not None:
            x = x - self.backout.weight * middle
        y = self.head(self.ln_f(x)) * form.head_scale
        if form.head_cap:
            y = torch.tanh(y / form.head_cap) * form.head_cap
        return (y if y.dtype == torch.float64 else y.float()), embedded

    def _smeared(self, x: Tensor, last: Tensor | None) -> Tensor:
        """Add to each token's embedding (B, t, C) a share of the one before; `last` precedes the first."""
        if self.smear is None or self.smear_scale is None:
            return x
        before = torch.zeros_like(x[:, :1]) if last is None else last[:, None]
        before = torch.cat((before, x[:, :-1]), dim=1)
        gate = self.smear_scale.weight * torch.sigmoid(self.smear(x[..., : self.cfg.smear]))
        return x + gate * before


def make_norm(form: Form, width: int, *, bias: bool | None = None) -> nn.Module:
    """Return the form's norm over `width` channels; `bias` None: as the form says."""
    if form.norm == "layernorm":
        return nn.LayerNorm(width, eps=form.norm_eps, bias="norm" in form.biases if bias is None else bias)
    return nn.RMSNorm(width, eps=form.norm_eps)


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate adjacent pairs of the first channels of x (B, heads, t, D); the other channels stay."""
    d = 2 * cos.shape[-1]
    a, b = x[..., 0:d:2], x[..., 1:d:2]
    turned = torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)
    return torch.cat((turned, x[..., d:]), dim=-1) if d < x.shape[-1] else turned


def transformer_of(form: Form, weights: Weights) -> Transformer:
    """Build the float32 model of weights, in evaluation mode on the CPU.

    Raises:
        KeyError: a weight that the form needs is not there.

    """
    with torch.device("meta"):
        model = Transformer(form)
    state: dict[str, Tensor] = {}
    for name in model.state_dict():
        if name == "head.weight" and form.tied:
            state[name] = state["tok_emb.weight"]
        else:
            state[name] = torch.from_numpy(dequantise(weights[name]).copy())
    model.load_state_dict(state, assign=True)
    if form.tied:
        model.head.weight = model.tok_emb.weight
    return model.eval()
