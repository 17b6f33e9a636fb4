"""Replay sessions recorded by earlier versions: arithmetic cannot change without saying so.

When one of these fails because a result's bits were changed on purpose: raise `KERNEL_VERSION`, write the
reason into `KERNEL_HISTORY` and docs/arithmetic.md, and run `python -m tests.replay.record_golden`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from niels_gpt.conversation.options import ChatOptions
from niels_gpt.decoding.backend import Backend
from niels_gpt.decoding.cuda_decoder import CudaDecoder
from niels_gpt.decoding.kernel_decoder import KernelDecoder
from niels_gpt.kernels import INTEGER_VERSION, KERNEL_HISTORY, KERNEL_VERSION
from niels_gpt.kernels.gpt_packing import PackedModel, pack_gpt
from tests.kernels.cuda.shim import HostDriver, needs_compiler
from tests.replay.record_golden import DATA, golden_file, replay_file
from tests.replay.recordings import integer_model, loaded

RECORDED = sorted(DATA.glob("kernel-*.jsonl"))


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_a_golden_session_is_exact_or_says_that_its_kernel_version_is_another(
    path: Path, checkpoint: Path, tmp_path: Path
) -> None:
    found = replay_file(path, checkpoint, tmp_path)
    assert len(found.verdicts) == 11
    if path == golden_file(KERNEL_VERSION):
        assert [verdict.kind for verdict in found.verdicts] == ["exact"] * 11
    else:
        said = [" ".join(verdict.remarks) for verdict in found.verdicts]
        assert all("recorded under kernel version" in each for each in said)


@needs_compiler
def test_the_golden_session_is_exact_with_the_kernels_of_a_gpu(checkpoint: Path, tmp_path: Path) -> None:
    def load(options: ChatOptions) -> Backend:
        model = loaded(options.checkpoint)
        packed = model.decoder.model
        assert isinstance(packed, PackedModel)
        model.decoder = CudaDecoder(packed, model.tokenizer, HostDriver())
        return model

    found = replay_file(golden_file(KERNEL_VERSION), checkpoint, tmp_path, load)
    assert [verdict.kind for verdict in found.verdicts] == ["exact"] * 11


def test_every_kernel_version_has_its_reason_and_its_golden_session() -> None:
    assert list(KERNEL_HISTORY) == list(range(1, max(KERNEL_VERSION, INTEGER_VERSION) + 1))
    assert all(KERNEL_HISTORY.values())
    # The sessions are of a model with float32 weights: a version of the integer products alone has none.
    assert golden_file(KERNEL_VERSION) in RECORDED
    assert set(RECORDED) <= {golden_file(version) for version in KERNEL_HISTORY}


def test_an_arithmetic_that_differs_in_one_last_bit_is_noticed(checkpoint: Path, tmp_path: Path) -> None:
    """The control: a change as small as a changed order of operations makes."""

    def load(options: ChatOptions) -> Backend:
        model = loaded(options.checkpoint)
        network = integer_model(T=320)
        with torch.no_grad():
            weight = network.get_parameter("blocks.0.mlp.fc_out.weight")
            weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(9.0))
        model.decoder = KernelDecoder(pack_gpt(network), model.tokenizer)
        return model

    found = replay_file(golden_file(KERNEL_VERSION), checkpoint, tmp_path, load)
    assert "exact" not in {verdict.kind for verdict in found.verdicts}
