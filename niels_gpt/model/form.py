"""Describe a decoder-only transformer: one `Form` for every family, which torch and the kernels interpret.

A form says what is computed, apart from the weights (`niels_gpt.model.weights` names those). For one layer,
with norms that are absent being the identity:

    h = x + proj(attention(norm_attn_in(x))) * residual_scale        attn_out norms what is added
    y = h + down(act(gate(h')) * up(h')) * residual_scale            h' = norm_mlp_in(h); mlp_out as above

Letters: V vocabulary, T context window, C width of the residual stream, L layers, H heads of queries, KV
heads of keys and values (query head h reads head h // (H / KV)), D width of a head, d_ff width of the MLP.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from niels_gpt.errors import NielsGptError

NORMS = ("layernorm", "rmsnorm")
NORM_PLACES = ("attn_in", "attn_out", "mlp_in", "mlp_out", "embed")
ACTIVATIONS = ("gelu", "gelu_tanh", "silu", "relu", "relu2")
QK_NORMS = ("", "head", "row", "after")
PARALLELS = ("", "one", "two")
POSITIONS = ("rope", "learned")
BIASES = ("qkv", "proj", "up", "gate", "down", "head", "norm")
SCALINGS = {"default": 0, "linear": 1, "llama3": 4, "yarn": 5, "factors": -1}
"""Kinds of rotary scaling, with the number of parameters of each (-1: one for each pair)."""
VALUE_GATE_SCALE = 3.0
"""A value embedding is added times `VALUE_GATE_SCALE * sigmoid(gate)`."""
LARGEST_SIZE = 2**31 - 1
MOST_LAYERS = 4096
LONGEST_WINDOW = 2**24


class FormError(NielsGptError):
    """A description that contradicts itself; the message names the field."""


def _is_scaling(scaling: object) -> bool:
    if not isinstance(scaling, tuple) or not scaling or scaling[0] not in SCALINGS:
        return False
    return SCALINGS[scaling[0]] in (-1, len(scaling) - 1)


def _require(name: str, value: object, holds: bool, expected: str) -> None:  # noqa: FBT001 - the tested condition
    if not holds:
        raise FormError(f"{name} is {value!r}, expected {expected}")


def _whole(name: str, value: object, *, at_least: int) -> None:
    fits = isinstance(value, int) and not isinstance(value, bool) and at_least <= value <= LARGEST_SIZE
    _require(name, value, fits, f"a whole number from {at_least} to {LARGEST_SIZE}")


def _number(name: str, value: object) -> float:
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    _require(name, value, fits, "a finite number")
    return float(value)  # pyright: ignore[reportArgumentType] - checked above


@dataclass(frozen=True)
class Rope:
    """Rotary embedding over adjacent channels (2i, 2i + 1) of the first `dims` channels of a head."""

    theta: float = 10000.0
    dims: int | None = None
    """Channels of a head that turn: None for all, 0 for none."""
    scaling: tuple[Any, ...] = ("default",)
    """("default",), ("linear", factor), ("llama3", factor, low, high, T0), ("yarn", factor, T0, fast, slow,
    attention factor) or ("factors", f0, f1, ...), which divide the rate of each pair."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "theta", _number("rope.theta", self.theta))
        _require("rope.theta", self.theta, self.theta > 0, "a positive number")
        if self.dims is not None:
            _whole("rope.dims", self.dims, at_least=0)
            _require("rope.dims", self.dims, self.dims % 2 == 0, "an even number")
        _require("rope.scaling", self.scaling, _is_scaling(self.scaling), f"one of {', '.join(SCALINGS)}")
        numbers = tuple(_number("rope.scaling", value) for value in self.scaling[1:])
        positive = all(value > 0 for value in numbers)
        _require("rope.scaling", self.scaling, positive, "positive numbers after its kind")
        object.__setattr__(self, "scaling", (self.scaling[0], *numbers))

    def rates(self, D: int) -> tuple[np.ndarray, float]:
        """Return what each pair turns by a position, and the factor of cosine and sine.

        Args:
            D: width of a head.

        Returns:
            Angles (pairs,) float64, and a factor.

        """
        d = D if self.dims is None else self.dims
        plain = np.float64(self.theta) ** (-np.arange(0, d, 2, dtype=np.float64) / max(d, 1))
        match self.scaling:
            case ("linear", factor):
                return plain / factor, 1.0
            case ("factors", *factors):
                return plain / np.asarray(factors, np.float64), 1.0
            case ("llama3", factor, low, high, T0):
                return _llama3(plain, factor, low, high, T0), 1.0
            case ("yarn", factor, T0, fast, slow, attention):
                slowed = plain / factor
                first, last = (
                    d * math.log(T0 / (turns * 2 * math.pi)) / (2 * math.log(self.theta))
                    for turns in (fast, slow)
                )
                return _blend(
                    plain, slowed, max(math.floor(first), 0), min(math.ceil(last), d - 1)
                ), attention
            case _:
                return plain, 1.0


def _llama3(plain: np.ndarray, factor: float, low: float, high: float, T0: float) -> np.ndarray:
    """Slow the pairs whose wave is longer than the old window by `factor`, the short ones not at all."""
    wave = 2 * math.pi / plain
    smooth = (T0 / wave - low) / (high - low)
    mixed = (1 - smooth) * plain / factor + smooth * plain
    return np.where(wave < T0 / high, plain, np.where(wave > T0 / low, plain / factor, mixed))


def _blend(plain: np.ndarray, slowed: np.ndarray, first: int, last: int) -> np.ndarray:
    """Blend linearly from the plain rates, up to pair `first`, to the slowed ones, from pair `last`."""
    ramp = np.clip((np.arange(plain.size) - first) / max(last - first, 0.001), 0, 1)
    return slowed * ramp + plain * (1 - ramp)


@dataclass(frozen=True)
class Form:
    """One decoder. `KV`, `D` and `score_scale` may be left 0; the value then holds what they stand for."""

    V: int
    T: int
    C: int
    L: int
    H: int
    d_ff: int
    KV: int = 0
    """Heads of keys and values; 0: H."""
    D: int = 0
    """Width of a head; 0: C // H."""
    norm: str = "layernorm"
    norm_eps: float = 1e-5
    norms: tuple[str, ...] = ("attn_in", "mlp_in")
    """Where norms stand, of `NORM_PLACES`; there is always a final one."""
    qk_norm: str = ""
    """Norm of queries and keys: "head" over each head and "row" over all heads, both before they are
    turned; "after" over each head after."""
    qk_scale: float = 1.0
    """Factor of queries and of keys after a norm that comes "after"."""
    rope: tuple[Rope, ...] = (Rope(),)
    """Rotary embedding by kind of layer; () for none."""
    positions: str = "rope"
    """"learned": `pos_emb` is added to the embedding."""
    windows: tuple[int, ...] = (0,)
    """Keys that a token sees, itself included, by kind of layer; 0: all before it."""
    kinds: tuple[int, ...] = (0,)
    """Kind of each layer: an index into `rope` and `windows`; repeated over the layers."""
    score_scale: float = 0.0
    """Factor of queries times keys; 0: D ** -0.5."""
    score_cap: float = 0.0
    """Scores become cap * tanh(score / cap) before the mask; 0: no cap."""
    mlp: str = "gelu"
    gated: bool = False
    """Whether the MLP is down(act(gate(x)) * up(x)) instead of down(act(up(x)))."""
    parallel: str = ""
    """Attention and MLP both read x: "two" through a norm each, "one" both through attn_in."""
    embed_scale: float = 1.0
    residual_scale: float = 1.0
    head_scale: float = 1.0
    head_cap: float = 0.0
    """Logits become cap * tanh(logit / cap); 0: no cap."""
    tied: bool = True
    """Whether the head's weight is the embedding's."""
    biases: frozenset[str] = frozenset()
    """Which layers have biases, of `BIASES`."""
    value_layers: tuple[int, ...] = ()
    """Layers that add a gated embedding of the token to its value vector: v + VALUE_GATE_SCALE *
    sigmoid(value_gate(first `value_gate` channels of the attention's input)) * value_emb(token)."""
    value_gate: int = 0
    """Channels that the gates of value embeddings read."""
    smear: int = 0
    """Channels that the smear gate reads: x + smear_scale * sigmoid(smear(first channels of x)) * (x of the
    token before), after the embedding's norm; the first token stays. 0: no smear."""
    mix: bool = False
    """Whether the input of layer i becomes mix[0] * x + mix[1] * x0, x0 the input of the first layer."""
    backout: int = -1
    """Layer whose output times `backout` is subtracted before the final norm; -1: none."""

    def __post_init__(self) -> None:
        for name in ("V", "T", "C", "L", "H", "d_ff"):
            _whole(name, getattr(self, name), at_least=1)
        _require("L", self.L, self.L <= MOST_LAYERS, f"at most {MOST_LAYERS}")
        _require("T", self.T, self.T <= LONGEST_WINDOW, f"at most {LONGEST_WINDOW}")
        for name in ("KV", "D", "value_gate", "smear"):
            _whole(name, getattr(self, name), at_least=0)
        for name in ("norm_eps", "qk_scale", "score_scale", "score_cap", "embed_scale", "residual_scale",
                     "head_scale", "head_cap"):  # fmt: skip
            object.__setattr__(self, name, _number(name, getattr(self, name)))
        if not self.D:
            _require("H", self.H, self.C % self.H == 0, f"a divisor of C={self.C}")
        object.__setattr__(self, "KV", self.KV or self.H)
        object.__setattr__(self, "D", self.D or self.C // self.H)
        object.__setattr__(self, "score_scale", self.score_scale or self.D**-0.5)
        _require("KV", self.KV, self.H % self.KV == 0, f"a divisor of H={self.H}")
        self._check_choices()
        self._check_layers()

    def _check_choices(self) -> None:
        for name, allowed in (("norm", NORMS), ("qk_norm", QK_NORMS), ("mlp", ACTIVATIONS),
                              ("parallel", PARALLELS), ("positions", POSITIONS)):  # fmt: skip
            value = getattr(self, name)
            _require(name, value, value in allowed, f"one of {', '.join(map(repr, allowed))}")
        for name, allowed in (("norms", NORM_PLACES), ("biases", BIASES)):
            value = getattr(self, name)
            _require(name, value, all(one in allowed for one in value), f"some of {', '.join(allowed)}")
        for name in ("gated", "tied", "mix"):
            _require(name, getattr(self, name), isinstance(getattr(self, name), bool), "true or false")
        _require("norm_eps", self.norm_eps, self.norm_eps >= 0, "0 or more")
        _require("score_cap", self.score_cap, self.score_cap >= 0, "0 or more")
        _require("head_cap", self.head_cap, self.head_cap >= 0, "0 or more")

    def _check_layers(self) -> None:
        _require("windows", self.windows, len(self.windows) >= 1, "one for each kind of layer")
        for window in self.windows:
            _whole("windows", window, at_least=0)
        _require("kinds", self.kinds, len(self.kinds) >= 1, "one kind or more")
        most = len(self.windows) if not self.rope else min(len(self.windows), len(self.rope))
        for kind in self.kinds:
            _whole("kinds", kind, at_least=0)
            _require("kinds", kind, kind < most, f"below {most}, the kinds that rope and windows describe")
        for rope in self.rope:
            d = self.D if rope.dims is None else rope.dims
            _require("rope.dims", d, d % 2 == 0 and d <= self.D, f"an even number up to D={self.D}")
            if rope.scaling[0] == "factors":
                _require("rope.scaling", rope.scaling, len(rope.scaling) == 1 + d // 2, f"{d // 2} factors")
        for layer in self.value_layers:
            _whole("value_layers", layer, at_least=0)
            _require("value_layers", layer, layer < self.L, f"below L={self.L}")
        _require("value_gate", self.value_gate, self.value_gate <= self.C, f"at most C={self.C}")
        _require("smear", self.smear, self.smear <= self.C, f"at most C={self.C}")
        _require("backout", self.backout, -1 <= self.backout < self.L, f"-1, or a layer below L={self.L}")

    @property
    def arch(self) -> str:
        """Name of the architecture in the registry of models."""
        return "transformer"

    @property
    def context(self) -> int:
        """Most tokens of a sequence."""
        return self.T

    @property
    def heads(self) -> tuple[int, int, int]:
        """Return (H, KV, D)."""
        return self.H, self.KV, self.D

    def kind(self, layer: int) -> int:
        """Return the kind of a layer, an index into `rope` and `windows`."""
        return self.kinds[layer % len(self.kinds)]

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain values that JSON can hold."""
        values = dataclasses.asdict(self)
        return _plain(values | {"biases": sorted(self.biases)})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Form:
        """Return the form that `to_dict` described; FormError for anything else."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(str(name) for name in values if name not in known)
        if unknown:
            raise FormError(f"a form has no field {', '.join(map(repr, unknown))}")
        given: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        try:
            ropes = given.get("rope", (Rope(),))
            given["rope"] = tuple(one if isinstance(one, Rope) else _rope(one) for one in ropes)
            given["biases"] = frozenset(given.get("biases", ()))
            return cls(**given)
        except (TypeError, KeyError) as error:
            raise FormError(f"a form's fields have the wrong types: {error}") from error


def _rope(values: Mapping[str, Any]) -> Rope:
    return Rope(values["theta"], values["dims"], tuple(values["scaling"]))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, (tuple, list)) else value
