"""The same bits under every instruction set: here, and in processes that are told of another processor."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from niels_gpt.kernels import INTEGER_VERSION, KERNEL_VERSION
from tests.kernels.elsewhere import POOREST, PROCESSORS, REPO, results
from tests.kernels.golden import everything, forms

GOLDEN, GOLDEN_FORMS = (
    json.loads(Path(__file__).with_name(f"{name}.json").read_text("utf-8"))
    for name in ("golden", "golden_forms")
)
GOLDEN_BDH = json.loads((REPO / "tests/bdh/golden.json").read_text("utf-8"))


def test_this_processor_makes_the_golden_bits():
    assert everything() == GOLDEN
    assert forms() == GOLDEN_FORMS


elsewhere = pytest.mark.parametrize("processor", PROCESSORS)
may_compile = pytest.mark.timeout(240)  # everything, where `make test` did not: without FMA it is slow


@may_compile
@elsewhere
def test_another_instruction_set_makes_the_golden_bits(processor: str):
    assert results(processor)["transformer"] == GOLDEN
    assert results(processor)["forms"] == GOLDEN_FORMS


@may_compile
@elsewhere
def test_another_instruction_set_makes_the_golden_bits_of_a_bdh(processor: str):
    assert results(processor)["bdh"] == GOLDEN_BDH


@may_compile
def test_a_golden_session_is_exact_on_a_processor_without_fma_or_avx():
    assert results(POOREST)["session"] == ["exact"] * 11


def test_the_golden_file_is_of_this_kernel_version():
    # A change of any bit needs a new version and a new file: recorded conversations depend on the old one.
    assert GOLDEN["kernel_version"] == KERNEL_VERSION
    assert GOLDEN_FORMS["integer_version"] == INTEGER_VERSION


def test_the_hashes_are_of_different_things():
    hashes = [each for each in GOLDEN_FORMS.values() if isinstance(each, str)]
    for form in (GOLDEN, GOLDEN["int8"]):
        hashes.append(form["special"])
        for model in form["models"].values():
            hashes += [
                model["prompt"],
                *(reply["logits"] for name, reply in model.items() if name != "prompt"),
            ]
    assert len(set(hashes)) == len(hashes)
