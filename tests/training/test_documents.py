"""What docs/training.md says of commands, files and keys is what is there."""

from __future__ import annotations

import re

import pytest

from niels_gpt.paths import REPO_ROOT
from niels_gpt.train.config import ComputeConfig, DialogueConfig, OptimizerConfig, Section, StreamConfig
from niels_gpt.train.options import parse_options

TEXT = (REPO_ROOT / "docs" / "training.md").read_text(encoding="utf-8")


def test_every_module_and_configuration_is_there() -> None:
    modules = {REPO_ROOT / name.replace(".", "/") for name in re.findall(r"python -m ([a-z0-9_.]+)", TEXT)}
    assert len(modules) > 4
    assert [
        m for m in modules if not m.with_suffix(".py").exists() and not (m / "__main__.py").exists()
    ] == []
    configurations = re.findall(r"configs/\w+\.json", TEXT)
    assert [name for name in configurations if not (REPO_ROOT / name).exists()] == []


@pytest.mark.parametrize("section", [StreamConfig, DialogueConfig, OptimizerConfig, ComputeConfig])
def test_every_key_of_a_configuration_is_named(section: type[Section]) -> None:
    assert [key for key in section.model_fields if f"`{key}`" not in TEXT] == []


def test_every_flag_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_options(["--help"])
    flags = set(re.findall(r"--[a-z]+", capsys.readouterr().out)) - {"--help"}
    assert [flag for flag in flags if flag not in TEXT] == []
