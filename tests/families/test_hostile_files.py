"""Files that lie about themselves: one line each, and no more memory than the file has bytes."""

from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from niels_gpt.model.checkpoint import CheckpointError
from niels_gpt.model.gguf_file import read_gguf
from niels_gpt.model.loading import load_model
from niels_gpt.model.safetensors_file import read_safetensors


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def gguf_bytes(
    *, tensors: int = 1, entries: int = 1, dims: int = 64, offset: int = 0, count: int = 2
) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, tensors, entries)
    head += text("words") + struct.pack("<IIQ", 9, 8, count) + text("a") + text("b")
    head += text("x") + struct.pack("<I", 1) + struct.pack("<Q", dims) + struct.pack("<IQ", 0, offset)
    return head + bytes(-len(head) % 32) + np.arange(64, dtype="<f4").tobytes()


def test_an_honest_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(gguf_bytes())
    file = read_gguf(tmp_path / "a.gguf")
    assert file.metadata == {"words": ["a", "b"]}
    assert file.tensors["x"].data.view("<f4").tolist() == list(range(64))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gguf_bytes(tensors=2**62), "claims 4611686018427387904 tensors"),
        (gguf_bytes(entries=2**40), "metadata entries"),
        (gguf_bytes(count=2**60), "more than the file has room for"),
        (gguf_bytes(dims=2**60), "behind the file's end"),
        (gguf_bytes(offset=2**62), "behind the file's end"),
        (gguf_bytes()[:40], "are left"),
        (b"GGUF" + struct.pack("<I", 9), "GGUF version 9"),
        (b"GGUF", "are left"),
        (b"", "not a file|not an archive|holds|empty|is not"),
    ],
)
def test_a_gguf_header_that_lies_is_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.gguf").write_bytes(content)
    with pytest.raises(CheckpointError, match=said) as raised:
        load_model(tmp_path / "a.gguf")
    assert "\n" not in str(raised.value)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(at=st.integers(4, 130), value=st.binary(min_size=1, max_size=8))
def test_any_damage_of_a_header_is_read_or_refused(tmp_path: Path, at: int, value: bytes) -> None:
    content = bytearray(gguf_bytes())
    content[at : at + len(value)] = value
    (tmp_path / "a.gguf").write_bytes(content)
    with contextlib.suppress(CheckpointError):  # anything else fails the test
        read_gguf(tmp_path / "a.gguf")


def safetensors_bytes(header: object, length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + bytes(16)


GOOD = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (safetensors_bytes({"x": GOOD}, length=2**63), "header claims"),
        (safetensors_bytes(b"{"), "header claims|not JSON"),
        (safetensors_bytes(b"[]"), "is a JSON list"),
        (safetensors_bytes(b"[" * 100_000), "not JSON"),
        (safetensors_bytes({"x": GOOD | {"data_offsets": [0, 10**15]}}), "of 16 bytes"),
        (safetensors_bytes({"x": GOOD | {"data_offsets": [8, 4]}}), "of 16 bytes"),
        (safetensors_bytes({"x": GOOD | {"shape": [2**60, 2**60]}}), "has 16 bytes"),
        (safetensors_bytes({"x": GOOD | {"shape": [-4]}}), r"is \[-4\]"),
        (safetensors_bytes({"x": GOOD | {"shape": [4.0]}}), r"is \[4.0\]"),
        (safetensors_bytes({"x": 3}), "has no dtype"),
        (b"\x00" * 4, "header claims"),
    ],
)
def test_a_safetensors_header_that_lies_is_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=said) as raised:
        read_safetensors(tmp_path / "model.safetensors")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ({}, "no object 'weight_map'"),
        ({"weight_map": 3}, "no object 'weight_map'"),
        ({"weight_map": {"a": 3}}, "no object 'weight_map'"),
        ({"weight_map": {"a": "../x.safetensors"}}, "expected one in its own folder"),
        ({"weight_map": {"a": "/etc/passwd"}}, "expected one in its own folder"),
        ({"weight_map": {"a": "none.safetensors"}}, "cannot read"),
        ([], "no object 'weight_map'"),
    ],
)
def test_an_index_that_is_not_one_is_one_line(tmp_path: Path, index: object, said: str) -> None:
    config = {"model_type": "llama", "vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 1,
              "num_attention_heads": 2, "intermediate_size": 8, "max_position_embeddings": 8}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=said):
        load_model(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{", '"x"', "[" * 100_000, '{"model_type": 3}'])
def test_a_config_that_is_not_one_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError) as raised:
        load_model(tmp_path)
    assert "\n" not in str(raised.value)
