"""Read the tensors of a Hugging Face folder, mapped: one safetensors file, or shards with an index."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from niels_gpt.model.stored import CheckpointError, Stored, mapped

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
LARGEST_HEADER = 100_000_000
KINDS = {"F32": "f32", "F16": "f16", "BF16": "bf16"}
ITEM_BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U8": 8, "BOOL": 8,
    "U64": 64, "U32": 32, "U16": 16, "F8_E4M3": 8, "F8_E5M2": 8,
}  # fmt: skip


def read_folder_tensors(folder: Path) -> dict[str, Stored]:
    """Map all tensors of a folder.

    Raises:
        CheckpointError: the folder has no weights, or a file is missing or damaged.

    """
    if (folder / SINGLE).is_file():
        return read_safetensors(folder / SINGLE)
    if (folder / INDEX).is_file():
        return _read_shards(folder)
    others = sorted(path.name for pattern in ("*.bin", "*.pth", "*.h5") for path in folder.glob(pattern))
    held = f"it holds {', '.join(others[:3])}" if others else "it holds no weights"
    raise CheckpointError(f"the folder {str(folder)!r} has no {SINGLE}: {held}; save it as safetensors")


def _read_shards(folder: Path) -> dict[str, Stored]:
    where = folder / INDEX
    try:
        content: Any = json.loads(where.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"cannot read {str(where)!r}: {error}") from error
    names = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise CheckpointError(f"{str(where)!r} has no object 'weight_map' of file names by tensor")
    found: dict[str, Stored] = {}
    for name in sorted(set(names.values())):
        path = folder / name
        if path.parent != folder or path.suffix != ".safetensors":
            raise CheckpointError(f"{str(where)!r} names the file {name!r}, expected one in its own folder")
        found |= read_safetensors(path)
    missing = sorted(names.keys() - found.keys())
    if missing:
        raise CheckpointError(f"{str(where)!r} promises {missing[0]!r}, which {names[missing[0]]!r} lacks")
    return found


def read_safetensors(path: Path) -> dict[str, Stored]:
    """Map the tensors of one file.

    Raises:
        CheckpointError: it cannot be read, or its header contradicts the file.

    """
    data = mapped(path)
    length = int.from_bytes(data[:8].tobytes(), "little") if data.size >= 8 else -1
    if not 2 <= length <= min(LARGEST_HEADER, data.size - 8):
        raise _damaged(path, f"its header claims {length} bytes of {data.size}")
    try:
        header = json.loads(data[8 : 8 + length].tobytes())
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise _damaged(path, f"its header is a JSON {type(header).__name__}")
    header.pop("__metadata__", None)
    body = data[8 + length :]
    return {name: _tensor(path, name, entry, body) for name, entry in header.items()}


def _tensor(path: Path, name: str, entry: object, body: np.ndarray) -> Stored:
    match entry:
        case {"dtype": str(dtype), "shape": [*sizes], "data_offsets": [int(first), int(last)]}:
            pass
        case _:
            raise _damaged(path, f"the entry of {name!r} has no dtype, shape and data_offsets")
    if not all(isinstance(size, int) and not isinstance(size, bool) and size >= 0 for size in sizes):
        raise _damaged(path, f"the shape of {name!r} is {sizes!r}")
    if not 0 <= first <= last <= body.size:
        raise _damaged(path, f"{name!r} lies at {first} to {last} of {body.size} bytes")
    shape = tuple(int(size) for size in sizes)
    if dtype in ITEM_BITS and math.prod(shape) * ITEM_BITS[dtype] != 8 * (last - first):
        raise _damaged(path, f"{name!r} of shape {shape} and {dtype} has {last - first} bytes")
    return Stored(KINDS.get(dtype, dtype), shape, body[first:last])


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{str(path)!r} is a damaged safetensors file: {reason}; download it again")
