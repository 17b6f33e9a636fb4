"""The same bits under every instruction set: here, and in processes that are told of another processor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from niels_gpt.kernels import INTEGER_VERSION, KERNEL_VERSION
from tests.kernels.golden import everything, forms

REPO = Path(__file__).resolve().parents[2]
GOLDEN, GOLDEN_FORMS = (
    json.loads(Path(__file__).with_name(f"{name}.json").read_text("utf-8"))
    for name in ("golden", "golden_forms")
)

PROCESSORS = {
    "AVX2 with FMA, no AVX-512": ("haswell", "+avx2,+fma"),
    "no FMA, no AVX": ("generic", ""),
}
if os.uname().machine != "x86_64":
    PROCESSORS = {"no extensions": ("generic", "")}


def elsewhere(name: str, features: str) -> dict[str, Any]:
    environment = os.environ | {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features}
    command = [sys.executable, "-m", "tests.kernels.golden"]
    return json.loads(
        subprocess.run(command, env=environment, cwd=REPO, check=True, stdout=subprocess.PIPE).stdout
    )


def test_this_processor_makes_the_golden_bits():
    assert everything() == GOLDEN
    assert forms() == GOLDEN_FORMS


@pytest.mark.timeout(120)  # everything is compiled anew, and without FMA every one of them is a call
@pytest.mark.parametrize("processor", PROCESSORS)
def test_another_instruction_set_makes_the_golden_bits(processor: str):
    assert elsewhere(*PROCESSORS[processor]) == {"golden": GOLDEN, "golden_forms": GOLDEN_FORMS}


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
