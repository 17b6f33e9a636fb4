"""`niels-generate` with models of other projects: their own template, and no system prompt of ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from niels_gpt.generate_cli import main
from niels_gpt.model.hf.export import export
from niels_gpt.model.loading import RAW_NOTICE

Ids = Callable[..., list[int]]


@pytest.fixture(scope="module")
def chat_folder(gpt_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a chat template."""
    folder = tmp_path_factory.mktemp("chat") / "model"
    export(gpt_directory, folder)
    return folder


@pytest.fixture(scope="module")
def base_folder(chat_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without."""
    folder = tmp_path_factory.mktemp("base")
    for path in chat_folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    text = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    del text["chat_template"]
    (folder / "tokenizer_config.json").write_text(json.dumps(text))
    return folder


@pytest.fixture
def ids(capsys: pytest.CaptureFixture[str]) -> Ids:
    """Return the ids of a reply."""

    def run(folder: Path, *words: str) -> list[int]:
        flags = ["--max_new_tokens", "8", "--temperature", "0", "--format", "jsonl", "--prompt", "To be"]
        assert main(["--model", str(folder), *flags, *words]) == 0
        return json.loads(capsys.readouterr().out)["token_ids"]

    return run


def test_a_chat_has_no_system_prompt_unless_one_is_given(
    chat_folder: Path, ids: Ids, capsys: pytest.CaptureFixture[str]
) -> None:
    # The context of 64 tokens has no room for that of our own models.
    assert ids(chat_folder) == ids(chat_folder, "--system", "")
    assert main(["--model", str(chat_folder), "--prompt", "To be", "--system", "be brief " * 9]) == 1
    assert "leaves no room" in capsys.readouterr().err


def test_a_model_without_a_template_continues_the_text_and_nothing_else(
    base_folder: Path, ids: Ids, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ids(base_folder) == ids(base_folder, "--raw") == ids(base_folder, "--system", "be brief")
    assert main(["--model", str(base_folder), "--prompt", "To be", "--max_new_tokens", "3"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("To be")
    assert RAW_NOTICE in printed.err
