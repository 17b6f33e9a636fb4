"""What the kernels make of fixed inputs, as hashes: `python -m tests.kernels.golden` prints them as JSON.

The inputs come from integer arithmetic alone, so that they are the same on every machine: a model of each
form, a prompt in chunks and the tokens that follow it under several samplings, and rows of subnormal numbers,
signed zeros and infinities. `golden.json` holds what came out when `KERNEL_VERSION` was last raised;
`golden_forms.json` holds the same for a prompt to a transformer of another family in every form of weights,
those of `INTEGER_VERSION` included. Prints both, by the files' names.
"""

from __future__ import annotations

import hashlib
import json
import sys
from typing import Any

import numpy as np

from niels_gpt.kernels import INTEGER_VERSION, KERNEL_VERSION, GroupForm, WeightForm
from niels_gpt.kernels.gpt import forward
from niels_gpt.kernels.gpt_layout import Rows
from niels_gpt.kernels.gpt_packing import PackedModel, StepMemory, new_state, pack_form, pack_state
from niels_gpt.kernels.linear import FLOAT32, INT8, linear
from niels_gpt.kernels.matrix_packing import pack, pack_int8
from niels_gpt.kernels.processor import aligned, padded
from niels_gpt.kernels.sampler import sample
from niels_gpt.kernels.slots import new_scratch, new_settings
from niels_gpt.model.config import ModelConfig
from niels_gpt.model.form import Form, Rope
from niels_gpt.model.weights import GROUP, Weight, float32_weight, shapes_of

PACKS = {"float32": pack, "int8": pack_int8}
KINDS = {"float32": FLOAT32, "int8": INT8}
CONFIGS = {
    "layernorm, gelu": ModelConfig(V=300, T=64, C=64, L=3, H=2, d_ff=128),
    "rmsnorm, swiglu": ModelConfig(V=300, T=64, C=48, L=2, H=4, d_ff=80, norm="rmsnorm", mlp="swiglu"),
    "odd widths": ModelConfig(V=97, T=64, C=30, L=2, H=3, d_ff=50),
}
SAMPLINGS = {  # temperature, top_k, top_p, repetition penalty
    "plain": (1.0, 0, 0.0, 1.0),
    "usual": (0.9, 50, 0.0, 1.0),
    "nucleus": (0.8, 0, 0.9, 1.0),
    "penalty": (1.2, 40, 0.95, 1.3),
    "greedy": (0.0, 0, 0.0, 1.0),
}
PROMPT, NEW_TOKENS = 30, 20
Place = tuple[np.ndarray, int]  # a sequence's state and its room


def whole_numbers(seed: int, count: int) -> np.ndarray:
    """Pseudo-random integers below 2**31: a linear congruential generator, exact everywhere."""
    out = np.empty(count, np.int64)
    state = seed
    for i in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        out[i] = state >> 33
    return out


def numbers(seed: int, *shape: int) -> np.ndarray:
    """Float32 in [-1, 1), each an exact multiple of a power of two."""
    values = whole_numbers(seed, int(np.prod(shape))) % 2**16
    return ((values - 2**15) / 2**15).astype(np.float32).reshape(shape)


def state_of(cfg: ModelConfig) -> dict[str, np.ndarray]:
    """Weights by name."""
    C, F, gated = cfg.C, cfg.d_ff, cfg.mlp == "swiglu"
    shapes: dict[str, tuple[int, ...]] = {"tok_emb.weight": (cfg.V, C)}
    for i in range(cfg.L):
        block = f"blocks.{i}."
        shapes |= {f"{block}attn.qkv.weight": (3 * C, C), f"{block}attn.proj.weight": (C, C)}
        for name in ("fc_a", "fc_g") if gated else ("fc1",):
            shapes[f"{block}mlp.{name}.weight"] = (F, C)
        shapes[f"{block}mlp.{'fc_out' if gated else 'fc2'}.weight"] = (C, F)
        if not gated:
            shapes |= {f"{block}mlp.fc1.bias": (F,), f"{block}mlp.fc2.bias": (C,)}
        for norm in ("ln1", "ln2"):
            shapes[f"{block}{norm}.weight"] = (C,)
            if cfg.norm == "layernorm":
                shapes[f"{block}{norm}.bias"] = (C,)
    shapes["ln_f.weight"] = (C,)
    if cfg.norm == "layernorm":
        shapes["ln_f.bias"] = (C,)
    state = {
        name: numbers(seed, *shape) * np.float32(0.25) for seed, (name, shape) in enumerate(shapes.items())
    }
    for name in state:
        if name.endswith(("ln1.weight", "ln2.weight", "ln_f.weight")):
            state[name] += np.float32(1.0)
    return state


def model_hashes(cfg: ModelConfig, form: WeightForm) -> dict[str, Any]:
    """The hash of a prompt's logits, and what each sampling makes of the model."""
    model = pack_state(cfg, state_of(cfg), form)
    prompt = (whole_numbers(99, PROMPT) % cfg.V).tolist()
    return {
        "prompt": _digest(*_read(model, prompt, [1, 7, 16, 6])),
        **{name: _reply(model, prompt, values) for name, values in SAMPLINGS.items()},
    }


def _read(model: PackedModel, ids: list[int], portions: list[int]) -> list[np.ndarray]:
    place = new_state(model.shape, model.T)
    memory = StepMemory(model.shape, rows=max(portions), room=model.T, parts=1)
    logits, at = [], 0
    for count in portions:
        logits.append(_step(model, memory, ids[at : at + count], at, place))
        at += count
    return logits


def _step(model: PackedModel, memory: StepMemory, ids: list[int], at: int, place: Place) -> np.ndarray:
    count, (state, room) = len(ids), place
    rows = Rows(
        np.array(ids, np.int64),
        np.arange(at, at + count),
        np.full(count, state.ctypes.data),
        np.full(count, room),
    )
    out = aligned(count * model.shape.head_row).reshape(count, -1)
    forward(model.shape, model.weights, memory.work, rows, np.arange(count), out.ctypes.data, 0, 1)
    return out[:, : model.shape.V].copy()


def _reply(model: PackedModel, prompt: list[int], values: tuple[float, int, float, float]) -> dict[str, Any]:
    V = model.shape.V
    settings = new_settings(1)
    for field, value in zip(
        (settings.temperature, settings.top_k, settings.top_p, settings.penalty), values, strict=True
    ):
        field[0] = value
    counts, banned = np.bincount(prompt, minlength=V), np.zeros(V, np.bool_)
    scratch = new_scratch(V, model.shape.head_row)
    uniforms = whole_numbers(7, NEW_TOKENS) / 2**31
    place = new_state(model.shape, model.T)
    memory = StepMemory(model.shape, rows=len(prompt), room=model.T, parts=1)
    rows, ids, at = _step(model, memory, prompt, 0, place), [], len(prompt)
    used = []
    for uniform in uniforms:
        row = aligned(padded(V))
        row[:V] = rows[-1]
        used.append(rows[-1])
        token_id, _ = sample(row, V, counts, banned, settings, 0, uniform, scratch)
        ids.append(int(token_id))
        counts[token_id] += 1
        rows = _step(model, memory, [ids[-1]], at, place)
        at += 1
    return {"ids": ids, "logits": _digest(*used)}


def special_hash(form: WeightForm) -> str:
    """Products of subnormal numbers, signed zeros, infinities and NaN (any NaN counts as one)."""
    special = np.array(
        [0.0, -0.0, 1e-40, -1e-40, 1e-45, np.inf, -np.inf, np.nan, 1e38, -1e38, 1.0, -3.0], np.float32
    )
    x = special[whole_numbers(3, 40 * 6) % len(special)].reshape(40, 6)
    x[20:] = np.where(np.isfinite(x[20:]), x[20:], np.float32(1e-42))  # rows that stay finite, too
    weight, row = numbers(4, 33, 6), padded(33)
    packed, start, y = PACKS[form](weight), aligned(row), aligned(40 * row)
    linear(
        KINDS[form], x.ctypes.data, 6, packed.ctypes.data, packed[0].size, 6,
        start.ctypes.data, 0, y.ctypes.data, row, 40, 0, row // 16,
    )  # fmt: skip
    y[np.isnan(y)] = np.float32(np.nan)
    return _digest(y)


FORM = Form(
    V=97, T=64, C=64, L=2, H=4, KV=2, D=16, d_ff=96, norm="rmsnorm", mlp="silu", gated=True, tied=True,
    windows=(0, 9), kinds=(0, 1), rope=(Rope(), Rope(1e5, scaling=("llama3", 8.0, 1.0, 4.0, 32.0))),
    qk_norm="head", biases=frozenset({"qkv"}),
)  # fmt: skip
WEIGHTS: tuple[GroupForm, ...] = ("float32", "int8", "q8", "q4")
"""What floats are quantised to when they are packed."""
STORED: dict[str, tuple[str, str]] = {
    "bf16": ("bf16", "bf16"),
    "f16": ("f16", "f16"),
    "q4_1 and q8_0": ("q4_1", "q8_0"),
    "q4_0": ("q4_0", "q4_0"),
}
"""Kinds that a file has: of the matrices, and of the embedding."""


def weights_of(form: Form) -> dict[str, Weight]:
    """Float32 weights by name."""
    found = {}
    for seed, (name, shape) in enumerate(shapes_of(form).items()):
        scale, base = (0.25, 0.0) if len(shape) == 2 or "bias" in name else (0.25, 1.0)
        found[name] = float32_weight(numbers(seed, *shape) * np.float32(scale) + np.float32(base))
    return found


def stored_as(kind: str, weight: Weight, seed: int) -> Weight:
    """Return a matrix of a kind that files have: floats shortened, or blocks of pseudo-random integers."""
    values = weight.data.view("<f4")
    if kind == "f16":
        return Weight("f16", weight.shape, values.astype("<f2").view(np.uint8))
    if kind == "bf16":
        return Weight("bf16", weight.shape, (values.view("<u4") >> 16).astype("<u2").view(np.uint8))
    groups = values.size // GROUP
    scale = ((whole_numbers(seed, groups) % 64 + 64) / 2**13).astype("<f2").reshape(-1, 1).view(np.uint8)
    low = (scale.view("<f2") * np.float16(-8)).astype("<f2").view(np.uint8)
    count = 32 if kind == "q8_0" else 16
    q = (whole_numbers(seed + 1, groups * count) % (255 if count == 32 else 256)).reshape(groups, count)
    parts = {
        "q8_0": [scale, (q - 127).astype(np.int8).view(np.uint8)],
        "q4_0": [scale, q.astype(np.uint8)],
        "q4_1": [scale, low, q.astype(np.uint8)],
    }[kind]
    return Weight(kind, weight.shape, np.concatenate(parts, axis=1).reshape(-1))  # pyright: ignore[reportArgumentType]


def forms() -> dict[str, Any]:
    """Hashes of a prompt's logits, by the form of the weights."""
    weights, prompt = weights_of(FORM), (whole_numbers(98, PROMPT) % FORM.V).tolist()
    models = {name: pack_form(FORM, weights, name) for name in WEIGHTS}
    for name, (kind, of_embedding) in STORED.items():
        models[name] = pack_form(FORM, {
            key: stored_as(of_embedding if key == "tok_emb.weight" else kind, weight, seed)
            if len(weight.shape) == 2 else weight
            for seed, (key, weight) in enumerate(weights.items())
        })  # fmt: skip
    hashes = {name: _digest(*_read(model, prompt, [1, 7, 16, 6])) for name, model in models.items()}
    return {"integer_version": INTEGER_VERSION, **hashes}


def _digest(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array, "<f4").data)
    return digest.hexdigest()


def everything() -> dict[str, Any]:
    """All hashes, by what they are of."""
    return {"kernel_version": KERNEL_VERSION, **_of("float32"), "int8": _of("int8")}


def _of(form: WeightForm) -> dict[str, Any]:
    return {
        "special": special_hash(form),
        "models": {name: model_hashes(cfg, form) for name, cfg in CONFIGS.items()},
    }


if __name__ == "__main__":
    json.dump({"golden": everything(), "golden_forms": forms()}, sys.stdout, indent=1)
