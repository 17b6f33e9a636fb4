"""Configs check themselves, and their JSON form names what is wrong with it."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError

import pytest

from niels_gpt.model.config import (
    ModelConfig,
    TrainConfig,
    default_p_train,
    load_config_from_json,
    load_json,
    save_json,
    to_dict,
)
from niels_gpt.paths import CONFIG_DIR


def test_a_config_survives_json(tmp_path):
    cfg = ModelConfig(V=2048, norm="rmsnorm", mlp="swiglu")
    save_json(tmp_path / "model.json", to_dict(cfg))
    assert ModelConfig(**load_json(tmp_path / "model.json")) == cfg


def test_a_config_file_overrides_what_it_says_and_fills_the_rest(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model": {"T": 64, "dropout": 0}, "train": {"B": 8}}))
    model_cfg, train_cfg = load_config_from_json(path)
    assert model_cfg == ModelConfig(T=64, dropout=0.0)
    assert train_cfg == TrainConfig(B=8, p_train=default_p_train())


@pytest.mark.parametrize(("name", "width"), [("local", 256), ("primer", 320), ("bdh", 256)])
def test_every_configuration_of_a_run_has_a_model_and_training_settings(name, width):
    model_cfg, train_cfg = load_config_from_json(CONFIG_DIR / f"{name}.json")
    assert width == model_cfg.C
    assert train_cfg.ckpt_every < train_cfg.total_steps


def test_an_empty_config_file_means_the_defaults(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert load_config_from_json(str(tmp_path / "config.json"))[0] == ModelConfig()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"model": {"n_layers": 3, "X": 1}}', r"'n_layers', 'X'.*valid keys are V, T, C"),
        ('{"train": {"lr": 3}}', r"'lr'.*valid keys are seed, B"),
        ('{"modle": {}}', r"'modle'.*valid keys are model, train"),
        ('{"model": {"T": "64"}}', r"T is '64', expected a whole number"),
        ('{"model": {"T": true}}', r"T is True, expected a whole number"),
        ('{"train": {"base_lr": NaN}}', r"base_lr is nan, expected a finite number"),
        ('{"train": {"p_train": {"wiki": "all"}}}', r"p_train"),
        ('{"model": [1]}', r"section 'model': expected an object"),
        ("[]", r"JSON list"),
        ("{", r"not JSON"),
    ],
)
def test_a_wrong_config_file_is_an_error_that_names_the_fault(tmp_path, content, message):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        load_config_from_json(tmp_path / "config.json")


def test_a_missing_config_file_is_an_error_that_names_it(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.json"):
        load_config_from_json(tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("V", 0),
        ("L", 0),
        ("H", 3),
        ("C", 12),
        ("dropout", 1.0),
        ("rope_theta", 0.0),
        ("norm", "batch"),
        ("mlp", "relu"),
        ("arch", "rnn"),
        ("mlp_bias", 1),
    ],
)
def test_a_model_that_cannot_be_is_refused_by_field(field, value):
    with pytest.raises(ValueError, match=rf"ModelConfig\.{field} is"):
        ModelConfig(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"), [("B", 0), ("warmup_steps", -1), ("base_lr", 0), ("p_train", {"a": -1})]
)
def test_a_training_run_that_cannot_be_is_refused_by_field(field, value):
    with pytest.raises(ValueError, match=rf"TrainConfig\.{field} is"):
        TrainConfig(**{field: value})


def test_configs_are_frozen():
    with pytest.raises(FrozenInstanceError):
        ModelConfig().T = 3  # pyright: ignore[reportAttributeAccessIssue]


def test_the_form_of_the_mlp_decides_its_biases_unless_said():
    assert ModelConfig().mlp_has_bias
    assert not ModelConfig(mlp="swiglu").mlp_has_bias
    assert ModelConfig(mlp="swiglu", mlp_bias=True).mlp_has_bias


def test_the_default_mix_is_a_fresh_dictionary_that_sums_to_one():
    mix = default_p_train()
    assert sum(mix.values()) == pytest.approx(1.0)
    mix.clear()
    assert default_p_train() == {"wiki": 0.784, "roam": 0.196, "primer": 0.020}
