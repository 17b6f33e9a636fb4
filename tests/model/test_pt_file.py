"""A `.pt` file is read without torch to what torch reads, and nothing in it is ever called."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from niels_gpt.model.pt_file import PtFileError, StoredTensor, read_pt
from niels_gpt.paths import SHIPPED_CHECKPOINT

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.bool]


def equal(found: object, expected: object) -> bool:
    if isinstance(expected, torch.Tensor):
        if not isinstance(found, StoredTensor) or found.shape != tuple(expected.shape):
            return False
        exact = expected.detach().float().numpy()
        return np.array_equal(found.float32(), exact)
    if isinstance(expected, dict):
        return (
            isinstance(found, dict)
            and found.keys() == expected.keys()
            and all(equal(found[key], value) for key, value in expected.items())
        )
    if isinstance(expected, (list, tuple)):
        return type(found) is type(expected) and all(map(equal, found, expected))
    return type(found) is type(expected) and found == expected


def saved(path: Path, value: object) -> Path:
    torch.save(value, path)
    return path


def with_pickle(path: Path, description: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", description)
    return path


def test_the_shipped_checkpoint_is_what_torch_reads():
    assert equal(read_pt(SHIPPED_CHECKPOINT), torch.load(SHIPPED_CHECKPOINT, weights_only=True))


def test_every_type_layout_and_plain_value_is_what_torch_reads(tmp_path: Path):
    whole = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    value = {
        "types": {str(dtype): torch.tensor([0, 1, 1], dtype=dtype) for dtype in DTYPES},
        "views": [whole, whole[1:3, ::2], whole.T, whole[2], torch.zeros(0, 3), torch.tensor(2.5)],
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "parameter": model.weight,
        "plain": (1, -5, 2**40, -(2**70), True, False, None, 1.5, "text", ()),
    }
    path = saved(tmp_path / "x.pt", value)
    assert equal(read_pt(path), torch.load(path, weights_only=True))


def test_a_tensor_cannot_be_written_to(tmp_path: Path):
    found = read_pt(saved(tmp_path / "x.pt", torch.ones(3)))
    with pytest.raises(ValueError, match="read-only"):
        found.data[0] = 2


class Call:
    """Becomes a call when it is unpickled."""

    def __init__(self, function: object, *arguments: object) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> tuple[object, ...]:
        return self._call


@pytest.mark.parametrize(
    "value", [Call(os.mkdir, "made"), Call(OrderedDict, [("a", 1)]), {"a": {1, 2}}, b"x", 1j]
)
def test_what_no_tensor_needs_is_refused_and_not_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value
):
    monkeypatch.chdir(tmp_path)
    path = with_pickle(tmp_path / "x.pt", pickle.dumps(value, protocol=2))
    with pytest.raises(PtFileError, match="more than tensors and plain values"):
        read_pt(path)
    assert [each.name for each in tmp_path.iterdir()] == ["x.pt"]


def test_a_container_inside_itself_is_refused(tmp_path: Path):
    inside: dict[str, object] = {}
    inside["self"] = inside
    with pytest.raises(PtFileError, match="two places"):
        read_pt(with_pickle(tmp_path / "x.pt", pickle.dumps(inside, protocol=2)))


@pytest.mark.parametrize(
    "description", [b"", b"\x80\x02", b"\x80\x02.", b"\x80\x02}u.", b"\x80\x02(.", b"\x80\x02h\x00."]
)
def test_a_description_that_breaks_off_is_one_error(tmp_path: Path, description: bytes):
    with pytest.raises(PtFileError):
        read_pt(with_pickle(tmp_path / "x.pt", description))


def test_a_flipped_bit_a_cut_file_and_a_file_of_another_kind_are_refused(tmp_path: Path):
    whole = saved(tmp_path / "whole.pt", {"w": torch.ones(64)}).read_bytes()
    at = whole.index(torch.ones(64).numpy().tobytes())
    path = tmp_path / "x.pt"
    for content in (
        whole[:at] + b"\x01" + whole[at + 1 :],
        whole[: len(whole) // 2],
        b"",
        b"text",
        whole[4:],
    ):
        path.write_bytes(content)
        with pytest.raises(PtFileError):
            read_pt(path)


def test_a_tensor_outside_its_storage_is_refused(tmp_path: Path):
    path = saved(tmp_path / "x.pt", torch.ones(4))
    with zipfile.ZipFile(path) as archive:
        parts = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    name = next(each for each in parts if each.endswith("data.pkl"))
    # The size (4,) as one byte each: K\x04 \x85 (TUPLE1).
    assert parts[name].count(b"K\x04\x85") == 1
    parts[name] = parts[name].replace(b"K\x04\x85", b"K\x05\x85")
    with zipfile.ZipFile(path, "w") as archive:
        for part, data in parts.items():
            archive.writestr(part, data)
    with pytest.raises(PtFileError, match="outside its storage"):
        read_pt(path)
