"""The check of a GPU finds no difference on the shim, and one where the kernels were changed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bench.cuda import OURS, Case, check, main
from bench.cuda_speed import CONTEXT, H100, step_bounds
from bench.models import SHAPES, random_model, step_bytes, step_operations
from niels_gpt.decoding import nvidia
from niels_gpt.kernels.cache import cache_folder
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


def test_the_model_of_a_step_counts_what_it_reads(capsys: pytest.CaptureFixture[str]) -> None:
    one = step_bounds(SHAPES["3.2M"], 1)
    cfg, gpu = SHAPES["3.2M"], H100
    read = step_bytes(cfg, streams=1, positions=CONTEXT + 1)
    assert one.memory == pytest.approx(read / gpu.bytes_per_second)
    operations = step_operations(cfg, streams=8, positions=CONTEXT + 1)
    peak = 2 * gpu.multiprocessors * gpu.lanes * gpu.clock
    assert step_bounds(cfg, 8).arithmetic == pytest.approx(operations / peak)
    assert step_bounds(cfg, 8).chains == one.chains, "chains of different streams run side by side"
    assert main(["model", "--models", "3.2M", "--streams", "1"]) == 0
    assert capsys.readouterr().out.startswith("A MODEL, not a measurement")


PLAIN = """
import sys

# As on a machine with a GPU that has torch, numba, numpy, tokenizers, safetensors and cuda-core alone.
ABSENT = set('''alembic anyio fastapi gguf matplotlib openai platformdirs prometheus_client prompt_toolkit
    psycopg pydantic ray rich sqlalchemy sqlmodel starlette transformers trio uvicorn wcwidth'''.split())

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"{name} is not installed", name=name)

sys.meta_path.insert(0, Absent())
from bench import cuda
from bench.cuda_speed import speed
from tests.bench.test_cuda import SCALE, small
from tests.kernels.cuda.shim import HostDriver
from niels_gpt.decoding import nvidia

assert cuda.check(lambda _: HostDriver(), scale=SCALE, found=small()) == 0
driver = HostDriver()
assert speed(["tiny"], [1, 3], driver=driver, device="cpu", products=[(1, 64, 32), (9, 64, 32)]) == 0
assert not ABSENT & {name.partition(".")[0] for name in sys.modules}
nvidia.why_unavailable = lambda: None
cuda.check = lambda open_driver, *, scale: scale == 0.5
assert cuda.main(["check", "--scale", "0.5"])
"""


@needs_compiler
def test_the_commands_need_no_package_besides_those_that_they_name() -> None:
    kernels = os.environ | {"NUMBA_CACHE_DIR": str(cache_folder().parents[1])}  # those that are compiled
    done = subprocess.run(
        [sys.executable, "-c", PLAIN], capture_output=True, text=True, check=False, env=kernels
    )
    assert done.returncode == 0, done.stderr
    table = done.stdout[done.stdout.index("| model | streams") :]
    assert all(f"| tiny | {streams} | " in table for streams in (1, 3))
    assert "nan" not in table
    assert "prompt of tiny, 512 tokens at once: " in table
    assert "| 9 x 64 x 32 | " in table
