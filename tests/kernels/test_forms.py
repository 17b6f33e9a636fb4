"""Every part of a form, in every weight form: near float64, and the same bits in every company."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pytest

from niels_gpt.kernels import GroupForm, UnsupportedFormError
from niels_gpt.kernels.fp_env import ieee_arithmetic
from niels_gpt.kernels.gpt import forward
from niels_gpt.kernels.gpt_layout import Rows
from niels_gpt.kernels.gpt_packing import PackedModel, pack_form, pack_state
from niels_gpt.model.config import ModelConfig
from niels_gpt.model.form import Form, Rope
from niels_gpt.model.gpt_form import form_of, weights_from_state
from niels_gpt.model.weights import Weight, dequantise, float32_weight, shapes_of
from tests.kernels.golden import state_of
from tests.kernels.models import Reader, read_in
from tests.kernels.reference import Reference

BASE = Form(
    V=70, T=80, C=48, L=2, H=6, KV=2, D=16, d_ff=80, norm="rmsnorm", mlp="silu", gated=True, tied=True
)
LAYERNORM = replace(BASE, norm="layernorm", biases=frozenset({"norm", "qkv", "proj", "up", "down", "head"}))
FORMS = {
    "grouped heads": BASE,
    "narrow heads": replace(BASE, H=4, KV=2, D=6, C=30, d_ff=29, tied=False),
    "biases, learned positions": replace(
        LAYERNORM, rope=(), positions="learned", mlp="gelu_tanh", gated=False
    ),
    "parallel, partial": replace(
        LAYERNORM, parallel="two", rope=(Rope(dims=6),), mlp="gelu", gated=False, tied=False
    ),
    "one norm for both": replace(LAYERNORM, norms=("attn_in",), parallel="one", mlp="gelu_tanh", gated=False),
    "windows, caps, norms after": replace(
        BASE, norms=("attn_in", "attn_out", "mlp_in", "mlp_out"), windows=(5, 0), kinds=(0, 1), score_cap=2.0,
        rope=(Rope(), Rope(1e6, scaling=("linear", 8.0))), head_cap=4.0, mlp="gelu_tanh", embed_scale=6.9,
        score_scale=0.3, qk_norm="head",
    ),
    "long windows": replace(BASE, H=8, KV=8, windows=(33,), kinds=(0,)),
    "only norms after, rows of heads": replace(BASE, norms=("attn_out", "mlp_out"), qk_norm="row"),
    "norms after the turn": replace(
        BASE, norms=("attn_in", "mlp_in", "embed"), qk_norm="after", qk_scale=1.2, mlp="relu2", gated=False,
    ),
    "scales": replace(BASE, residual_scale=0.3, head_scale=0.2, embed_scale=3.0, mlp="relu"),
    "scaled rotary": replace(
        BASE, rope=(Rope(5e5, scaling=("llama3", 8.0, 1.0, 4.0, 32.0)), Rope(dims=0)), windows=(0, 0),
        kinds=(0, 1),
    ),
    "one head of keys": replace(BASE, KV=1, rope=(Rope(1e4, scaling=("yarn", 4.0, 32.0, 32.0, 1.0, 1.1)),)),
}  # fmt: skip
WEIGHT_FORMS: tuple[GroupForm, ...] = ("float32", "q8")


def weights_of(form: Form, seed: int = 0) -> dict[str, Weight]:
    rng, out = np.random.default_rng(seed), {}
    for name, shape in shapes_of(form).items():
        values = rng.standard_normal(shape) * (0.3 if len(shape) == 1 else 1.5 / shape[-1] ** 0.5)
        if name.endswith("weight") and len(shape) == 1:
            values += 1
        out[name] = float32_weight(values.astype(np.float32))
    return out


@dataclass(frozen=True)
class Packed:
    form: Form
    weights: dict[str, Weight]
    model: PackedModel


def packed(name: str, weight_form: GroupForm) -> Packed:
    weights = weights_of(FORMS[name])
    return Packed(FORMS[name], weights, pack_form(FORMS[name], weights, weight_form))


@pytest.fixture(params=FORMS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def ids_of(form: Form, seed: int = 3) -> list[int]:
    return np.random.default_rng(seed).integers(0, form.V, form.T).tolist()


def test_float32_logits_are_those_of_float64(name: str) -> None:
    one = packed(name, "float32")
    ids = ids_of(one.form)
    expected = Reference(one.form, one.weights).logits(ids)
    np.testing.assert_allclose(read_in(one.model, ids, [len(ids)]), expected, atol=1e-4)


@pytest.mark.parametrize("weight_form", WEIGHT_FORMS)
def test_portions_do_not_change_a_bit(name: str, weight_form: GroupForm) -> None:
    one = packed(name, weight_form)
    ids = ids_of(one.form)
    whole = read_in(one.model, ids, [len(ids)])
    assert np.isfinite(whole).all()
    for portions in ([1] * 80, [7, 1, 2, 31, 39], [64, 16]):
        assert read_in(one.model, ids, portions).tobytes() == whole.tobytes()


@pytest.mark.parametrize("weight_form", WEIGHT_FORMS)
@pytest.mark.parametrize("parts", [2, 3])
def test_threads_do_not_change_a_bit(name: str, weight_form: GroupForm, parts: int) -> None:
    one = packed(name, weight_form)
    if not one.model.may_split:
        pytest.skip("heads that are no whole vectors stay on one thread")
    ids = ids_of(one.form)
    whole = read_in(one.model, ids, [len(ids)])
    reader = Reader(one.model, positions=len(ids), parts=parts)
    for count in (40, 1, 3, 36):
        rows, logits = reader.rows(ids[reader.at : reader.at + count]), np.zeros_like(whole[:count])
        logits = np.zeros((count, one.model.shape.head_row), np.float32)
        _together(one.model, reader, rows, logits, parts)
        expected = whole[reader.at : reader.at + count]
        assert logits[:, : one.form.V].tobytes() == expected.tobytes()
        reader.at += count


def _together(model: PackedModel, reader: Reader, rows: Rows, logits: np.ndarray, parts: int) -> None:
    def part(number: int) -> None:
        with ieee_arithmetic():
            forward(
                model.shape, model.weights, reader.memory.work, rows, np.arange(len(logits)),
                logits.ctypes.data, number, parts,
            )  # fmt: skip

    with ThreadPoolExecutor(parts) as threads:
        list(threads.map(part, range(parts)))


def test_neighbours_and_old_memory_do_not_change_a_bit(name: str) -> None:
    one = packed(name, "float32")
    texts = [ids_of(one.form, seed)[: 20 + 9 * seed] for seed in range(3)]
    alone = [read_in(one.model, text, [len(text)]) for text in texts]
    readers = [Reader(one.model, positions=len(text)) for text in texts]
    for reader in readers:
        reader.state[:] = np.nan
    rows = Rows(
        *(
            np.concatenate(each)
            for each in zip(*(r.rows(t) for r, t in zip(readers, texts, strict=True)), strict=True)
        )
    )
    logits = np.zeros((len(rows.ids), one.model.shape.head_row), np.float32)
    memory = one.model.new_memory(rows=len(rows.ids), room=80, parts=1)
    forward(
        one.model.shape,
        one.model.weights,
        memory.work,
        rows,
        np.arange(len(rows.ids)),
        logits.ctypes.data,
        0,
        1,
    )
    assert logits[:, : one.form.V].tobytes() == np.concatenate(alone).tobytes()


def test_16_bit_floats_are_their_float32_values_to_the_bit() -> None:
    form = FORMS["grouped heads"]
    weights = weights_of(form)
    for kind in ("bf16", "f16"):
        short = {
            name: _shortened(weight, kind) if len(weight.shape) == 2 else weight
            for name, weight in weights.items()
        }
        wide = {name: float32_weight(dequantise(weight)) for name, weight in short.items()}
        ids = ids_of(form)
        stored, widened = pack_form(form, short), pack_form(form, wide)
        assert stored.nbytes < 0.8 * widened.nbytes
        assert read_in(stored, ids, [80]).tobytes() == read_in(widened, ids, [80]).tobytes()


def _shortened(weight: Weight, kind: str) -> Weight:
    values = dequantise(weight)
    halves = values.astype("<f2") if kind == "f16" else (values.view(np.uint32) >> 16).astype("<u2")
    return Weight(kind, weight.shape, halves.reshape(-1).view(np.uint8))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("weight_form", "least"), [("q8", 0.999), ("q4", 0.9), ("int8", 0.999)])
def test_quantised_logits_are_near_float64(weight_form: GroupForm, least: float) -> None:
    one = packed("scales", weight_form)
    ids = ids_of(one.form)
    expected, found = Reference(one.form, one.weights).logits(ids), read_in(one.model, ids, [len(ids)])
    likeness = (expected * found).sum() / np.linalg.norm(expected) / np.linalg.norm(found)
    assert least < likeness < 1 - 1e-7


def test_a_tied_embedding_is_held_once() -> None:
    tied, untied = (pack_form(f, weights_of(f)) for f in (BASE, replace(BASE, tied=False)))
    assert untied.nbytes - tied.nbytes == 4 * 80 * 48  # V in whole vectors, C


def test_our_own_checkpoints_in_groups_are_near_themselves() -> None:
    cfg = ModelConfig(V=300, T=64, C=64, L=3, H=2, d_ff=128)
    state = state_of(cfg)
    ids = np.random.default_rng(1).integers(0, cfg.V, 64).tolist()
    exact = read_in(pack_state(cfg, state), ids, [64])
    found = read_in(
        pack_form(form_of(cfg), weights_from_state(cfg, state), "q8", from_residual=True), ids, [64]
    )
    assert (exact * found).sum() / np.linalg.norm(exact) / np.linalg.norm(found) > 0.999


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"value_layers": (0,), "value_gate": 8}, "value embeddings"),
        ({"smear": 8}, "smear"),
        ({"mix": True}, "mix their input"),
        ({"backout": 0}, "subtraction"),
        ({"parallel": "two", "norms": ("attn_in", "mlp_in", "mlp_out")}, "norms after parallel"),
    ],
)
def test_what_the_kernels_lack_is_named(change: dict[str, object], named: str) -> None:
    form = replace(BASE, **change)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UnsupportedFormError, match=named):
        pack_form(form, weights_of(form))


def test_a_missing_or_wrong_weight_is_named() -> None:
    weights = weights_of(BASE)
    without = {name: weight for name, weight in weights.items() if name != "blocks.1.k.weight"}
    with pytest.raises(ValueError, match=r"lack 'blocks.1.k.weight'"):
        pack_form(BASE, without)
    with pytest.raises(ValueError, match=r"'blocks.1.k.weight' has shape"):
        pack_form(BASE, without | {"blocks.1.k.weight": weights["blocks.1.q.weight"]})
