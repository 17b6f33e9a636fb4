"""The verifier re-executes the replies of a model in a GGUF file of SmolLM2's kind."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from niels_gpt.chat_cli import run_chat_cli
from niels_gpt.text.bpe import BYTE_OF_LETTER
from verifier.__main__ import main

with warnings.catch_warnings():  # of its own dependencies, at import
    warnings.simplefilter("ignore")
    gguf = pytest.importorskip("gguf")

C, H, KV, D, F, L, T = 64, 4, 2, 16, 96, 2, 256
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are small<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QUESTIONS = "what is <|im_end|> in 1234 words?", "  and the  sea?"


def write_model(path: Path, form: str) -> Path:
    """Write a random Llama with matrices of a form, its embedding as Q8_0."""
    letters = sorted(BYTE_OF_LETTER, key=BYTE_OF_LETTER.__getitem__)
    writer, rng = gguf.GGUFWriter(path, "llama"), np.random.default_rng(5)
    writer.add_context_length(T)
    writer.add_embedding_length(C)
    writer.add_block_count(L)
    writer.add_feed_forward_length(F)
    writer.add_head_count(H)
    writer.add_head_count_kv(KV)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(D)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    pieces = [*CONTROL, *letters, "th", "Ġa"]
    writer.add_token_list(pieces)
    writer.add_token_types([3 if piece in CONTROL else 1 for piece in pieces])
    writer.add_token_merges(["t h", "Ġ a"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)

    def add(name: str, *shape: int, kind: str = form) -> None:
        value = rng.standard_normal(shape).astype(np.float32) * np.float32(1.5 / shape[-1] ** 0.5)
        if len(shape) == 1:
            writer.add_tensor(f"{name}.weight", 1 + value)
        else:
            raw = gguf.GGMLQuantizationType[kind]
            writer.add_tensor(f"{name}.weight", gguf.quants.quantize(value, raw), raw_dtype=raw)

    add("token_embd", len(pieces), C, kind="Q8_0")
    for layer in range(L):
        block = f"blk.{layer}."
        for name, *shape in (
            ("attn_norm", C), ("attn_q", H * D, C), ("attn_k", KV * D, C), ("attn_v", KV * D, C),
            ("attn_output", C, H * D), ("ffn_norm", C), ("ffn_gate", F, C), ("ffn_up", F, C),
            ("ffn_down", C, F),
        ):  # fmt: skip
            add(block + name, *shape)
    add("output_norm", C)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """Return a maker of models and of exported conversations with them."""
    folder, found = tmp_path_factory.mktemp("gguf"), {}

    def record(form: str) -> tuple[Path, Path]:
        if form not in found:
            model = write_model(folder / f"{form}.gguf", form)
            archive, store = folder / f"{form}.jsonl", ["--store", str(folder / f"{form}.db")]
            flags = ["--ckpt", str(model), "--temperature", "1.2", "--max-new-tokens", "5", *store]
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # of whichever test is first
                for question in QUESTIONS:
                    assert run_chat_cli(["--session", "a", "-p", question, *flags]) == 0
                assert run_chat_cli(["export", "a", "-o", str(archive), *store]) == 0
            found[form] = model, archive
        return found[form]

    return record


@pytest.mark.parametrize("form", ["Q4_0", "Q4_1", "Q8_0"])
def test_recorded_replies_are_exact(recorded, capsys: pytest.CaptureFixture[str], form: str) -> None:
    model, archive = recorded(form)
    assert main([str(archive), str(model)]) == 0
    assert capsys.readouterr().out.endswith("2 of 2 replies exact, 0 changed records\n")


def test_a_changed_token_and_a_changed_bit_of_a_weight_are_found(
    recorded, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, archive = recorded("Q4_1")
    rows = [json.loads(line) for line in archive.read_text("utf-8").splitlines()]
    next(row for row in reversed(rows) if row.get("type") == "message")["token_ids"][1] ^= 1
    changed = tmp_path / "changed.jsonl"
    changed.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    assert main([str(changed), str(model)]) == 3
    assert "at token 1: recorded" in capsys.readouterr().out
    data = bytearray(model.read_bytes())
    data[-3] ^= 16
    other = tmp_path / "other.gguf"
    other.write_bytes(data)
    assert main([str(archive), str(other)]) == 3
    assert capsys.readouterr().out.count("made by a checkpoint with other weights") == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda row: row["environment"].update(weights="q8"), "'q8' weights"),
        (lambda row: row["environment"].update(context_rule=9), "context rule 9"),
    ],
)
def test_what_is_not_covered_is_one_line(
    recorded, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Any], None], said: str
) -> None:
    model, archive = recorded("Q4_1")
    rows = [json.loads(line) for line in archive.read_text("utf-8").splitlines()]
    change(next(row for row in rows if row.get("type") == "generation"))
    changed = tmp_path / "changed.jsonl"
    changed.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    assert main([str(changed), str(model)]) == 4
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
