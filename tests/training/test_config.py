from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from niels_gpt.paths import CONFIG_DIR
from niels_gpt.train.config import ComputeConfig, TokenizerConfig, load_run_config

ConfigFile = Callable[..., Path]


def test_the_shipped_configuration_is_valid_and_its_vocabularies_agree() -> None:
    recipe = load_run_config(CONFIG_DIR / "primer.json")
    assert recipe.data.tokenizer.vocab_size == recipe.model.V
    assert recipe.data.dialogues == (Path("data/primer.txt"), Path("data/primer.generated.txt"))


def test_what_is_not_said_keeps_its_default(config_file: ConfigFile) -> None:
    recipe = load_run_config(config_file(data={"dialogues": "data/primer.txt"}))
    assert recipe.data.tokenizer == TokenizerConfig(kind="bpe", vocab_size=2048, path=None)
    assert recipe.compute == ComputeConfig(
        amp="auto", threads=None, compile=False, accumulation_steps=1, activation_checkpointing=False,
        parallel="ddp",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"extra": {}}, r"unknown keys 'extra'; valid keys are model, train, optimizer, data, compute"),
        ({"model": {"W": 1}}, r"section 'model': unknown keys 'W'"),
        ({"optimizer": {"kind": "sgd"}}, r"section 'optimizer': kind is 'sgd', expected one of adamw, muon"),
        ({"data": {"dialogs": "x"}}, r"section 'data': unknown keys 'dialogs'; valid keys are dialogues"),
        ({"data": {"val_frac": 0.1}}, r"section 'data': dialogues is None, expected the path"),
        (
            {"data": {"enabled": []}},
            r"section 'data': unknown keys 'enabled'; valid keys are dialogues, enabled",
        ),
        ({"data": {"enabled_sources": "wiki"}}, r"enabled_sources is 'wiki', expected a list of names"),
        ({"data": {"folders": {"a": 1}}}, r"section 'folders': a is 1, expected the path of a folder"),
        ({"compute": {"parallel": "tp"}}, r"parallel is 'tp', expected one of ddp, fsdp2"),
        ({"compute": {"compile": 1}}, r"compile is 1, expected true or false"),
        ({"data": {"dialogues": []}}, r"dialogues is \[\]"),
        ({"data": {"dialogues": "x", "val_frac": 1.0}}, r"val_frac is 1.0, expected a share in \[0, 1\)"),
        (
            {"data": {"dialogues": "x", "tokenizer": {"kind": "words"}}},
            r"kind is 'words', expected one of bpe, bytes",
        ),
        ({"data": {"dialogues": "x", "tokenizer": {"vocab_size": 0}}}, r"vocab_size is 0"),
        ({"compute": {"amp": "fp8"}}, r'amp is \'fp8\', expected "auto", "bf16" or null'),
        ({"compute": {"threads": True}}, r"threads is True, expected a whole number"),
        ({"data": [1]}, r"section 'data': expected an object with keys, got \[1\]"),
    ],
)
def test_a_wrong_value_is_named_with_its_place(
    config_file: ConfigFile, sections: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load_run_config(config_file(**sections))
