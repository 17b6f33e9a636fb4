from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from niels_gpt.model.config import ModelConfig
from niels_gpt.model.hf.__main__ import main
from niels_gpt.model.hf.export import export
from niels_gpt.model.hf.weights import half_split
from niels_gpt.model.loading import load_model
from niels_gpt.text.bpe import BPETokenizer

from .conftest import MakeCheckpoint

NEOX: dict[str, Any] = {"norm": "layernorm", "mlp": "gelu"}
LLAMA: dict[str, Any] = {"norm": "rmsnorm", "mlp": "swiglu"}


def test_half_split_rows_put_the_first_of_each_pair_in_front() -> None:
    cfg = ModelConfig(C=16, H=2)
    rows = torch.arange(3 * 16 * 16, dtype=torch.float32).view(48, 16)
    q, _, v = half_split(rows, cfg)
    assert torch.equal(q[0, :4], rows[0:8:2])
    assert torch.equal(q[0, 4:], rows[1:8:2])
    assert torch.equal(v.reshape(16, 16), rows[32:])


@pytest.mark.parametrize("form", [NEOX, LLAMA], ids=["neox", "llama"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_an_exported_folder_opens_as_the_same_model(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, form: dict[str, Any], *, tied: bool, bias: bool
) -> None:
    source = make_checkpoint(**form, tie_embeddings=tied, mlp_bias=bias)
    export(source, tmp_path / "folder")
    before, after = load_model(source), load_model(tmp_path / "folder")
    said = [{"role": "user", "content": "what is\nuser: a cache?"}]
    ids = after.template.prompt_ids(said)
    assert ids == before.template.prompt_ids(said)
    with torch.inference_mode():
        expected = before.model(torch.tensor([ids]))
        torch.testing.assert_close(after.model(torch.tensor([ids])), expected, rtol=1e-5, atol=1e-5)


def test_an_exported_tokenizer_keeps_its_control_tokens(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, bpe: BPETokenizer
) -> None:
    export(make_checkpoint(bpe, **LLAMA), tmp_path / "folder")
    loaded = load_model(tmp_path / "folder")
    assert loaded.template.stop_ids == {bpe.special_token_ids()["eot"]}
    assert not set(loaded.tokenizer.encode_ids("<|eot|><|usr|>")) & set(bpe.special_token_ids().values())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"norm": "layernorm", "mlp": "swiglu"}, "norm='layernorm' with mlp='swiglu' has no counterpart"),
        ({"norm": "rmsnorm", "mlp": "gelu"}, "norm='rmsnorm' with mlp='gelu' has no counterpart"),
        ({"arch": "bdh"}, "arch='bdh' has no counterpart"),
    ],
)
def test_a_variant_without_a_counterpart_is_refused_by_name(
    make_checkpoint: MakeCheckpoint,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    said: str,
) -> None:
    assert main(["export", str(make_checkpoint(**changes)), str(tmp_path / "folder")]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert said in printed
    assert not (tmp_path / "folder").exists()


def test_a_missing_checkpoint_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tmp_path / "none.pt"), str(tmp_path / "folder")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_command_says_what_it_wrote(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "folder"
    assert main(["export", str(make_checkpoint(**NEOX)), str(folder)]) == 0
    assert f"{folder / 'model.safetensors'}: " in capsys.readouterr().out
