"""The GPU's kernels, compiled for the CPU, give the bits of the CPU's kernels for every form of model."""

from __future__ import annotations

import numpy as np
import pytest

from niels_gpt.kernels import GroupForm, WeightForm
from niels_gpt.kernels.cuda import model as cuda_model
from niels_gpt.kernels.cuda.model import PAGE, CudaModel, Pages, Rows
from niels_gpt.kernels.gpt_packing import PackedModel, pack_form, pack_state
from niels_gpt.model.weights import Weight
from tests.kernels.cuda.shim import Edit, HostDriver, needs_compiler
from tests.kernels.golden import CONFIGS, state_of
from tests.kernels.models import read_in
from tests.kernels.test_forms import FORMS, ids_of, packed, weights_of

pytestmark = needs_compiler


def read_on_gpu(driver: HostDriver, model: PackedModel, ids: list[int], portions: list[int]) -> np.ndarray:
    """The logits (n, V) of one sequence, read in portions by slot 1 of 2; its pages are in falling order."""
    gpu, count, i32 = CudaModel(model, driver), len(ids), np.int32
    pages, V = -(-count // PAGE), model.shape.V
    gpu.reserve(max(portions))
    table = np.zeros((2, pages), i32)
    table[1] = np.arange(pages)[::-1]

    def uploaded(array: np.ndarray) -> int:
        address = driver.allocate(array.nbytes)
        driver.upload(address, array)
        return address

    where = Pages(driver.allocate(4 * pages * gpu.page_floats), uploaded(table), pages)
    numbers, slots = uploaded(np.arange(count, dtype=i32)), uploaded(np.ones(count, i32))
    all_ids = uploaded(np.array(ids, i32))
    logits = driver.allocate(4 * count * model.shape.head_row)
    at = 0
    for portion in portions:
        rows = Rows(all_ids + 4 * at, numbers + 4 * at, slots, portion, portion)
        gpu.forward(rows, where, numbers, portion, logits + 4 * at * model.shape.head_row)
        at += portion
    out = np.zeros((count, model.shape.head_row), np.float32)
    driver.download(logits, out)
    return out[:, :V]


INTEGERS = ("grouped heads", "parallel, partial", "one norm for both")
"""Forms that are read with integer weights, too: together they have every product."""


@pytest.mark.parametrize(
    ("name", "weight_form"),
    [*((name, "float32") for name in FORMS), *((name, form) for name in INTEGERS for form in ("q8", "q4"))],
)
def test_every_form_has_the_bits_of_the_cpu(name: str, weight_form: GroupForm) -> None:
    one = packed(name, weight_form)
    ids = ids_of(one.form)[:40]
    expected = read_in(one.model, ids, [len(ids)])
    found = read_on_gpu(HostDriver(), one.model, ids, [1, 4, 35])
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("weights", ["float32", "int8"])
@pytest.mark.parametrize("name", CONFIGS)
def test_our_checkpoints_have_the_bits_of_the_cpu(name: str, weights: WeightForm) -> None:
    cfg = CONFIGS[name]
    model = pack_state(cfg, state_of(cfg), weights)
    ids = np.random.default_rng(3).integers(0, cfg.V, 40).tolist()
    expected = read_in(model, ids, [40])
    driver = HostDriver()
    assert read_on_gpu(driver, model, ids, [8, 1, 31]).tobytes() == expected.tobytes()
    assert {f"one_{weights}", f"few_{weights}"} <= set(driver.launches)


def test_the_order_of_the_threads_does_not_matter() -> None:
    one = packed("windows, caps, norms after", "float32")
    ids = ids_of(one.form)[:40]
    expected = read_in(one.model, ids, [40])
    for driver in (HostDriver(descending=True), HostDriver(early=True)):
        assert read_on_gpu(driver, one.model, ids, [1, 39]).tobytes() == expected.tobytes()
        assert "attend_rows" in driver.launches


def test_rows_longer_than_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_model, "SCORES", 16)
    monkeypatch.setattr(cuda_model, "MOST_QUERY_BLOCKS", 0)  # nor are there rows that attend together
    for name in ("grouped heads", "long windows", "windows, caps, norms after"):
        one = packed(name, "float32")
        ids = ids_of(one.form)[:60]
        expected = read_in(one.model, ids, [60])
        driver = HostDriver()
        assert read_on_gpu(driver, one.model, ids, [59, 1]).tobytes() == expected.tobytes()
        assert "attend_rows" not in driver.launches


@pytest.mark.parametrize("kind", ["bf16", "f16"])
def test_16_bit_weights_have_the_bits_of_the_cpu(kind: str) -> None:
    form = FORMS["grouped heads"]
    weights = {}
    for name, weight in weights_of(form).items():
        values = weight.data.view("<f4").reshape(weight.shape)
        if kind == "f16":
            words = values.astype("<f2").view("<u2")
        else:
            words = (values.view("<u4") >> 16).astype("<u2")
        weights[name] = Weight(kind, weight.shape, words.reshape(-1).view(np.uint8))
    model = pack_form(form, weights)
    ids = ids_of(form)[:20]
    driver = HostDriver()
    found = read_on_gpu(driver, model, ids, [1, 19])
    assert found.tobytes() == read_in(model, ids, [20]).tobytes()
    assert f"one_{kind}" in driver.launches


CONTROLS: dict[str, Edit] = {
    "a sum in another order": (
        "norm.cuh",
        "for (int i = lane; i < count; i += 16) {",
        "for (int i = lane + (count - 1 - lane) / 16 * 16; i >= 0; i -= 16) {",
    ),
    "a sum of squares contracted": (
        "norm.cuh",
        "sum = add(sum, mul(deviation, deviation));",
        "sum = fused(deviation, deviation, sum);",
    ),
    "a missing barrier": (
        "attention.cu",
        "query[d] = q[(size_t)r * q_row + h * D + d];\n  __syncthreads();",
        "query[d] = q[(size_t)r * q_row + h * D + d];",
    ),
    "a missing barrier before pages are read": (
        "attention.cu",
        "    wait_for_copies<1>();\n    __syncthreads();\n    for (int item = warp",
        "    wait_for_copies<1>();\n    for (int item = warp",
    ),
    "a position that a row must not see": (
        "attention.cu",
        "if (all_begin <= at && at + PAGE <= all_end) {",
        "if (all_begin <= at) {",
    ),
}


@pytest.mark.parametrize("control", CONTROLS)
def test_a_changed_order_is_noticed(control: str) -> None:
    cfg = CONFIGS["layernorm, gelu"]
    model = pack_state(cfg, state_of(cfg))
    ids = np.random.default_rng(3).integers(0, cfg.V, 20).tolist()
    driver = HostDriver(edit=CONTROLS[control])
    found = read_on_gpu(driver, model, ids, [1] * 10 + [10])
    assert (found != read_in(model, ids, [20])).any()
