from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from niels_gpt.model.config import ModelConfig
from niels_gpt.model.hf.__main__ import main
from niels_gpt.model.hf.export import export
from niels_gpt.model.hf.load import load_folder
from niels_gpt.model.hf.weights import adjacent, half_split
from niels_gpt.model.loading import load_model
from niels_gpt.text.bpe import BPETokenizer
from niels_gpt.text.hf_bpe import adopt

from .conftest import MakeCheckpoint

NEOX: dict[str, Any] = {"norm": "layernorm", "mlp": "gelu"}
LLAMA: dict[str, Any] = {"norm": "rmsnorm", "mlp": "swiglu"}


@pytest.mark.parametrize("form", [NEOX, LLAMA], ids=["neox", "llama"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_there_and_back_is_the_same_model(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, form: dict[str, Any], *, tied: bool, bias: bool
) -> None:
    source = make_checkpoint(**form, tie_embeddings=tied, mlp_bias=bias)
    export(source, tmp_path / "folder")
    load_folder(tmp_path / "folder", tmp_path / "back.pt")
    before, after = load_model(source), load_model(tmp_path / "back.pt")
    assert after.fingerprint.digest == before.fingerprint.digest


def test_a_tokenizer_with_control_tokens_comes_back_byte_for_byte(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, bpe: BPETokenizer
) -> None:
    source = make_checkpoint(bpe, **LLAMA)
    export(source, tmp_path / "folder")
    load_folder(tmp_path / "folder", tmp_path / "back.pt")
    assert load_model(tmp_path / "back.pt").tokenizer.to_json() == bpe.to_json()


def test_a_tokenizer_of_another_project_comes_back_with_its_end_token(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, bpe: BPETokenizer
) -> None:
    plain = bpe.to_json().replace("<|eot|>", "<end>").replace("<|asst|>", "<other>")
    source = make_checkpoint(adopt(plain, end="<end>"), **NEOX)
    export(source, tmp_path / "folder")
    load_folder(tmp_path / "folder", tmp_path / "back.pt")
    back = load_model(tmp_path / "back.pt")
    assert back.fingerprint.digest == load_model(source).fingerprint.digest
    assert back.template.stop_ids == {back.tokenizer.special_token_ids()["eot"]}


def test_half_split_rows_go_back_side_by_side() -> None:
    cfg = ModelConfig(C=16, H=2)
    rows = torch.arange(3 * 16 * 16, dtype=torch.float32).view(48, 16)
    q, _, v = half_split(rows, cfg)
    assert torch.equal(adjacent(q).reshape(16, 16), rows[:16])
    assert torch.equal(v.reshape(16, 16), rows[32:])
    assert not torch.equal(q.reshape(16, 16), rows[:16])


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


@pytest.mark.parametrize(
    ("form_and_changes", "said"),
    [
        ((NEOX, {"use_parallel_residual": True}), "use_parallel_residual is true"),
        ((NEOX, {"rope_parameters": {"partial_rotary_factor": 0.25}}), "partial_rotary_factor is 0.25"),
        ((NEOX, {"hidden_act": "gelu_new"}), "hidden_act is 'gelu_new'"),
        ((LLAMA, {"rms_norm_eps": 1e-6}), "rms_norm_eps is 1e-06"),
        ((LLAMA, {"rope_scaling": {"type": "linear"}, "rope_parameters": None}), "'linear'"),
        ((LLAMA, {"head_dim": 64}), "head_dim is 64"),
        ((LLAMA, {"num_key_value_heads": 3}), "num_key_value_heads is 3"),
        ((LLAMA, {"model_type": "gpt2"}), "model_type is 'gpt2'"),
    ],
)
def test_a_folder_without_a_counterpart_is_refused_by_name(
    make_checkpoint: MakeCheckpoint,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    form_and_changes: tuple[dict[str, Any], dict[str, Any]],
    said: str,
) -> None:
    form, changes = form_and_changes
    folder = tmp_path / "folder"
    export(make_checkpoint(**form), folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8")) | changes
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert main(["import", str(folder), str(tmp_path / "back.pt")]) == 2
    assert said in capsys.readouterr().err


def test_damaged_weights_are_one_line(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(make_checkpoint(**LLAMA), tmp_path / "folder")
    (tmp_path / "folder" / "model.safetensors").write_bytes(b"half")
    assert main(["import", str(tmp_path / "folder"), str(tmp_path / "back.pt")]) == 2
    assert "model.safetensors" in capsys.readouterr().err


def test_a_missing_folder_and_a_missing_checkpoint_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", str(tmp_path / "none"), str(tmp_path / "back.pt")]) == 2
    assert main(["export", str(tmp_path / "none.pt"), str(tmp_path / "folder")]) == 2
    assert capsys.readouterr().err.count("\n") == 2


def test_the_command_says_what_it_wrote(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "folder"
    assert main(["export", str(make_checkpoint(**NEOX)), str(folder)]) == 0
    assert main(["import", str(folder), str(tmp_path / "back.pt")]) == 0
    printed = capsys.readouterr().out
    assert f"{folder / 'model.safetensors'}: " in printed
    assert "back.pt: norm layernorm, mlp gelu, V=256" in printed
