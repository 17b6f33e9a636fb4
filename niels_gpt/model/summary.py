"""Summarise a model from its file, without loading it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from niels_gpt.model.families.config_reader import read_json_object
from niels_gpt.model.gguf_file import read_gguf
from niels_gpt.model.pt_file import read_pt


def summary_of(path: Path) -> dict[str, Any]:
    """Return kind, form of most weights, context and licence of a model; None for what it does not say.

    Raises:
        NielsGptError: the file is damaged.

    """
    if path.is_dir():
        config = read_json_object(path / "config.json")
        own = config.get("model")
        context = own.get("T") if isinstance(own, dict) else config.get("max_position_embeddings")
        dtype = config.get("dtype") or config.get("torch_dtype") or "float32"
        return _summary(config.get("model_type"), dtype, context or config.get("n_positions"), None)
    if path.suffix == ".gguf":
        file = read_gguf(path)
        arch = file.metadata.get("general.architecture")
        kinds = Counter(tensor.kind for tensor in file.tensors.values() if len(tensor.shape) == 2)
        kind = kinds.most_common(1)[0][0] if kinds else None
        context = file.metadata.get(f"{arch}.context_length")
        return _summary(arch, kind, context, file.metadata.get("general.license"))
    content = read_pt(path)
    config = content.get("model_cfg") if isinstance(content, dict) else None
    if not isinstance(config, dict):
        return _summary("pt", None, None, None)
    return _summary(config.get("arch", "gpt"), "float32", config.get("T"), None)


def _summary(kind: object, weights: object, context: object, licence: object) -> dict[str, Any]:
    return {"kind": kind, "weights": weights, "context": context, "licence": licence}
