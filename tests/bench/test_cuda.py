"""The check of a GPU finds no difference on the shim, and one where the kernels were changed."""

from __future__ import annotations

import pytest

from bench.cuda import OURS, Case, check, main
from bench.models import random_model
from niels_gpt.decoding import nvidia
from niels_gpt.kernels.gpt_packing import pack_gpt
from tests.kernels.cuda.shim import HostDriver, needs_compiler

SCALE = 0.02


def small() -> list[Case]:
    model = random_model(OURS["odd widths"])
    return [Case("ours", pack_gpt(model), model)]


@needs_compiler
def test_the_kernels_pass_their_check() -> None:
    said: list[str] = []
    assert check(lambda _: HostDriver(), scale=SCALE, found=small(), say=said.append) == 0
    assert said[-2].endswith("0 differ")
    assert said[-1] == "control: torch differs from the CPU for 1 of 1 models"


@needs_compiler
def test_changed_kernels_fail_it() -> None:
    edit = (
        "norm.cuh",
        "sum = add(sum, mul(deviation, deviation));",
        "sum = fused(deviation, deviation, sum);",
    )
    said: list[str] = []
    assert check(lambda _: HostDriver(edit=edit), scale=SCALE, found=small()[:1], say=said.append) == 1
    assert not said[-2].endswith(" 0 differ")


@pytest.mark.parametrize("command", ["check", "speed"])
def test_without_a_gpu_one_line_says_what_to_do(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    if nvidia.why_unavailable() is None:
        pytest.skip("there is a GPU")
    assert main([command]) == 2
    error = capsys.readouterr().err
    assert error.startswith("bench.cuda: the GPU kernels cannot run here: ")
    assert error.count("\n") == 1
