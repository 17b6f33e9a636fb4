"""Checkpoint files: what they hold, that a crash cannot halve them, and that bad ones say so."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from niels_gpt.model.checkpoint import (
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
    validate_model_config_match,
)
from niels_gpt.model.config import ModelConfig, TrainConfig, to_dict

CFG = ModelConfig(V=61, T=32, C=24, L=3, H=3, d_ff=40)
SIX = {"model_cfg", "train_cfg", "model_state", "optimizer_state", "step", "best_val_loss"}
EMPTY: dict[str, object] = {key: {} for key in SIX} | {"step": 0}


class CarriesJson:
    def to_json(self) -> str:
        return '{"a": "tokenizer"}'


@pytest.fixture
def save(tmp_path, gelu_model):
    def to(path=None, **changes):
        path = path or tmp_path / "model.pt"
        content = {
            "model_cfg": CFG,
            "train_cfg": TrainConfig(),
            "model": gelu_model,
            "optimizer": None,
            "step": 7,
            "best_val_loss": 1.5,
        }
        save_checkpoint(path, **(content | changes))
        return path

    return to


def test_a_checkpoint_gives_back_its_six_keys(save, gelu_model):
    content = load_checkpoint(str(save()), device="cpu")
    assert set(content) == SIX
    assert content["model_cfg"] == to_dict(CFG)
    assert content["train_cfg"] == to_dict(TrainConfig())
    assert content["optimizer_state"] is None
    assert (content["step"], content["best_val_loss"]) == (7, 1.5)
    for name, value in gelu_model.state_dict().items():
        assert torch.equal(content["model_state"][name], value)


def test_the_optimizer_goes_on_where_it_was(save, gelu_model):
    optimizer = torch.optim.AdamW(gelu_model.parameters())
    gelu_model(torch.tensor([[1, 2]])).sum().backward()
    optimizer.step()
    content = load_checkpoint(save(optimizer=optimizer), device="cpu")
    other = torch.optim.AdamW(gelu_model.parameters())
    other.load_state_dict(content["optimizer_state"])
    moments, expected = other.state_dict()["state"][0], optimizer.state_dict()["state"][0]
    assert torch.equal(moments["exp_avg"], expected["exp_avg"])


def test_a_tokenizer_travels_inside_as_a_seventh_key(save):
    content = load_checkpoint(save(tokenizer=CarriesJson()), device="cpu")
    assert set(content) == SIX | {"tokenizer"}
    assert content["tokenizer"] == '{"a": "tokenizer"}'


def test_the_file_is_read_without_running_code(save, tmp_path):
    class Harmful:
        def __reduce__(self):
            return (print, ("ran",))

    path = tmp_path / "harmful.pt"
    torch.save(dict.fromkeys(SIX, Harmful()), path)
    with pytest.raises(CheckpointError, match="something other than tensors and plain values"):
        load_checkpoint(path, device="cpu")


def test_saving_leaves_one_file_with_ordinary_permissions(save):
    path = save()
    assert [entry.name for entry in path.parent.iterdir()] == ["model.pt"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def fails_midway(save, path):
    """A save whose last value cannot be written, after thousands of bytes of others could."""
    with pytest.raises(Exception, match="pickle"):
        save(path, best_val_loss=lambda: None)


def test_a_save_that_fails_midway_leaves_the_old_file(save):
    path = save(step=1)
    fails_midway(save, path)
    assert load_checkpoint(path, device="cpu")["step"] == 1
    assert [entry.name for entry in path.parent.iterdir()] == ["model.pt"]


def test_writing_in_place_and_failing_midway_loses_the_old_file(save):
    """The control: without the detour over a second file the failure above is fatal."""
    path = save(step=1)
    with pytest.raises(Exception, match="pickle"):
        torch.save({"step": 2, "best_val_loss": lambda: None}, path)
    with pytest.raises(CheckpointError):
        load_checkpoint(path, device="cpu")


KILLED_BEFORE_RENAMING = """
import os, pathlib, sys, torch
from niels_gpt.model.checkpoint import save_checkpoint
from niels_gpt.model.config import ModelConfig, TrainConfig
pathlib.Path.replace = lambda self, target: os.kill(os.getpid(), 9)
save_checkpoint(sys.argv[1], model_cfg=ModelConfig(), train_cfg=TrainConfig(), model=torch.nn.Linear(2, 2),
                optimizer=None, step=2, best_val_loss=None)
"""


def test_a_kill_between_writing_and_renaming_leaves_the_old_file(save):
    path = save(step=1)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_BEFORE_RENAMING, str(path)], check=False, timeout=50
    )
    assert killed.returncode == -9
    assert load_checkpoint(path, device="cpu")["step"] == 1


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere\.pt' does not exist"):
        load_checkpoint(tmp_path / "nowhere.pt", device="cpu")


def test_a_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="is a folder"):
        load_checkpoint(tmp_path, device="cpu")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04", b"\x80\x02}q\x00.", bytes(1000)])
def test_a_foreign_file_is_refused(tmp_path, content):
    path = tmp_path / "foreign.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"foreign\.pt"):
        load_checkpoint(path, device="cpu")


def test_a_file_cut_short_anywhere_is_refused(save):
    path = save()
    whole = path.read_bytes()
    for length in range(0, len(whole), len(whole) // 40):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            load_checkpoint(path, device="cpu")


def test_a_flipped_byte_in_the_weights_is_refused(save):
    path = save()
    whole = bytearray(path.read_bytes())
    for at in range(len(whole) // 4, len(whole) // 2, len(whole) // 16):
        damaged = bytearray(whole)
        damaged[at] ^= 0x55
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            load_checkpoint(path, device="cpu")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ([1, 2], "holds a list"),
        ({"model_cfg": {}}, "lacks train_cfg, model_state"),
        (EMPTY | {"model_state": 3}, "model_state is a int"),
        (EMPTY | {"tokenizer": 3}, "tokenizer is a int"),
        (EMPTY | {"step": None}, "step is None"),
    ],
)
def test_a_file_of_something_else_is_refused_by_what_it_lacks(tmp_path, changed, message):
    torch.save(changed, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "other.pt", device="cpu")


def test_configs_that_match_pass():
    validate_model_config_match(to_dict(CFG), to_dict(replace(CFG)))


def test_configs_that_differ_are_listed_field_by_field():
    with pytest.raises(ValueError, match=r"C: checkpoint 24, config 48; H: checkpoint 3, config 6$"):
        validate_model_config_match(to_dict(CFG), replace(CFG, C=48, H=6))
