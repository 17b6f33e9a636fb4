"""The verifier re-executes what the chat recorded, finds every planted change, and shares no code with it."""

from __future__ import annotations

import ast
import io
import json
import shutil
import tokenize
import zipfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from niels_gpt.chat_cli import run_chat_cli
from niels_gpt.paths import REPO_ROOT, SHIPPED_CHECKPOINT
from verifier.__main__ import main

SOURCES = sorted((REPO_ROOT / "verifier").glob("*.py"))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A session of one short reply with every kind of setting, as an export, by the form of the weights."""
    folder = tmp_path_factory.mktemp("archive")

    def export(weights: str) -> Path:
        path = folder / f"{weights}.jsonl"
        if not path.exists():
            store = ["--store", str(folder / f"{weights}.db")]
            flags = (
                "--temperature 1.3 --top-k 40 --top-p 0.95 --min-p 0.01 --typical-p 0.98 --max-new-tokens 6"
            )
            penalties = "--repetition-penalty 1.2 --frequency-penalty 0.1 --presence-penalty 0.1"
            words = [*flags.split(), *penalties.split(), "--system", "", "--weights", weights]
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # of whichever test is first
                assert run_chat_cli(["--session", "a", "-p", "what is rope?", *words, *store]) == 0
                assert run_chat_cli(["export", "a", "-o", str(path), *store]) == 0
        return path

    return export


def changed(path: Path, kind: str, change: Callable[[dict[str, Any]], None], to: Path) -> Path:
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    change(next(row for row in reversed(rows) if row.get("type") == kind))
    to.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return to


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_a_recorded_reply_is_exact(exported, capsys: pytest.CaptureFixture[str], weights: str):
    assert main([str(exported(weights)), str(SHIPPED_CHECKPOINT)]) == 0
    assert capsys.readouterr().out.endswith("1 of 1 replies exact, 0 changed records\n")


CHANGES: dict[str, tuple[str, Callable[[dict[str, Any]], None], str]] = {
    "a token": ("message", lambda row: row["token_ids"].__setitem__(2, 5), "at token 2: recorded 5"),
    "the text": ("message", lambda row: row.update(content=row["content"] + "!"), "text is not that of"),
    "the seed": ("generation", lambda row: row.update(seed=row["seed"] + 1), "seed does not follow"),
    "a setting": ("generation", lambda row: row["sampling"].update(temperature=1.2), "was changed"),
    "the prompt": ("generation", lambda row: row.update(prompt_hash="0" * 64), "prompt is not the recorded"),
    "the hash": ("generation", lambda row: row["receipt"].update(logits_hash="0" * 64), "other bits"),
    "a part": ("checkpoint", lambda row: row["parts"].update(weights="0" * 64), "with other weights"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_changed_record_is_found_and_named(
    exported, tmp_path, capsys: pytest.CaptureFixture[str], what: str
):
    kind, change, said = CHANGES[what]
    path = changed(exported("float32"), kind, change, tmp_path / "x.jsonl")
    assert main([str(path), str(SHIPPED_CHECKPOINT)]) == 3
    assert said in capsys.readouterr().out


def test_one_bit_of_a_weight_is_found(exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    other = tmp_path / "other.pt"
    with zipfile.ZipFile(SHIPPED_CHECKPOINT) as source, zipfile.ZipFile(other, "w") as target:
        for entry in source.infolist():
            data = bytearray(source.read(entry))
            if entry.filename.endswith("data/5"):
                data[1000] ^= 1
            target.writestr(entry.filename, bytes(data))
    assert main([str(exported("float32")), str(other)]) == 3
    assert "made by a checkpoint with other weights" in capsys.readouterr().out


def test_what_it_does_not_cover_and_what_is_damaged_is_one_line(exported, tmp_path, capsys):
    path = tmp_path / "x.jsonl"
    path.write_text('{"format": "another"}\n')
    assert main([str(path), str(SHIPPED_CHECKPOINT)]) == 4
    shutil.copy(path, other := tmp_path / "no.pt")
    assert main([str(exported("float32")), str(other)]) == 1
    assert capsys.readouterr().err.count("\n") == 2


def test_it_shares_no_code_with_what_it_verifies():
    imported = set()
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").partition(".")[0])
    assert imported.isdisjoint({"niels_gpt", "engine", "sessions", "torch", "numba"})
    assert {"numpy", "tokenizers", "verifier"} <= imported


def lines_of_code(source: str) -> int:
    """Count the lines that hold code: no blank line, comment or docstring."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    counted: set[int] = set()
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, documented)]
    docstrings = [node.body[0] for node in nodes if node.body and ast.get_docstring(node) is not None]
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in {tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.STRING}:
            counted.update(range(token.start[0], token.end[0] + 1))
    return len(counted.difference(*(range(each.lineno, (each.end_lineno or 0) + 1) for each in docstrings)))


def test_it_has_at_most_800_lines_of_code():
    assert lines_of_code('"""Doc."""\n\n# why\nx = (\n    1\n)\n') == 3
    assert sum(lines_of_code(source.read_text("utf-8")) for source in SOURCES) <= 800
