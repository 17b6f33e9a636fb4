"""Digest what a reply depends on, and describe where it was computed.

Four digests decide whether a reply can be made again: weights, config, tokenizer, template. The environment
(versions, processor, device, threads) only explains a difference.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from niels_gpt.model.config import ModelConfig, to_dict
from niels_gpt.model.form import Form
from niels_gpt.model.int8 import quantised
from niels_gpt.model.stored import StoredTensors
from niels_gpt.text.chat_template import Template
from niels_gpt.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch

# The flags under which torch counts a processor to each, so that old recordings name it in the same way.
_AVX2 = {"avx2", "fma"}
_AVX512 = _AVX2 | {"avx512f", "avx512vl", "avx512bw", "avx512dq"}


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """SHA-256 of each part, in hex."""

    weights: str
    config: str
    tokenizer: str
    template: str

    @property
    def digest(self) -> str:
        """One SHA-256 over the four parts, in hex."""
        return _sha256("\n".join((self.weights, self.config, self.tokenizer, self.template)))

    @staticmethod
    def environment(*, device: str = "cpu", path: str = "torch") -> dict[str, str | int]:
        """Return what may explain other bits from one fingerprint; `path` names the arithmetic that ran."""
        found: dict[str, str | int] = {
            "python": platform.python_version(),
            "cpu": _cpu_name(),
            "device": device,
            "dtype": "float32",
            "path": path,
        }
        if path == "torch":
            import torch  # noqa: PLC0415 - heavy

            found |= {"torch": str(torch.__version__), "threads": torch.get_num_threads()}
        return found


def fingerprint(
    model: torch.nn.Module, cfg: ModelConfig, tokenizer: Tokenizer, template: Template
) -> Fingerprint:
    """Return the fingerprint of a torch model together with its tokenizer and template."""
    return _fingerprint(weights_digest(model), config_digest(cfg), tokenizer, template)


def state_fingerprint(
    state: Mapping[str, np.ndarray], cfg: ModelConfig, tokenizer: Tokenizer, template: Template
) -> Fingerprint:
    """Return the fingerprint of a checkpoint of ours, the same as that of its torch model.

    Args:
        state: float32 by name, all of its state dict.
        cfg: its config.
        tokenizer: what makes its ids.
        template: what makes its prompts.

    """
    shared = {"lm_head.weight"} if cfg.arch == "gpt" and cfg.tie_embeddings else set()
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        if name not in shared:
            digest.update(f"{name}\0torch.float32\0{tuple(value.shape)}\0".encode())
            digest.update(np.ascontiguousarray(value, "<f4").reshape(-1).view(np.uint8).data)
    return _fingerprint(digest.hexdigest(), config_digest(cfg), tokenizer, template)


def form_fingerprint(
    form: Form, tensors: StoredTensors, tokenizer: Tokenizer, template: Template
) -> Fingerprint:
    """Return the fingerprint of a model of another project.

    Args:
        form: what it computes.
        tensors: its file's, whose names, kinds, shapes and bytes count.
        tokenizer: what makes its ids.
        template: what makes its prompts.

    """
    digest = hashlib.sha256()
    for name, stored in sorted(tensors.items()):
        digest.update(f"{name}\0{stored.kind}\0{stored.shape}\0".encode())
        digest.update(np.ascontiguousarray(stored.data).data)
    return _fingerprint(digest.hexdigest(), form_digest(form), tokenizer, template)


def form_digest(form: Form) -> str:
    """Return SHA-256, in hex, over the fields of a form that are not at their default.

    A field that a later version adds changes no digest until a model uses it.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(Form)}
    given = {name: value for name, value in form.to_dict().items() if getattr(form, name) != defaults[name]}
    return _sha256(json.dumps(given, sort_keys=True))


def _fingerprint(weights: str, config: str, tokenizer: Tokenizer, template: Template) -> Fingerprint:
    rules: dict[str, object] = {
        "name": template.name,
        "version": template.version,
        "stop_ids": sorted(template.stop_ids),
        "stop_sequences": [stop.hex() for stop in template.stop_sequences],
        "banned_ids": sorted(template.banned_ids),
    }
    source = getattr(template, "source", None)
    if source is not None:  # a template that a file brought along
        rules["source"] = _sha256(source)
    stored = tokenizer.to_json()
    return Fingerprint(
        weights=weights,
        config=config,
        tokenizer=_sha256("bytes" if stored is None else stored),
        template=_sha256(json.dumps(rules, sort_keys=True)),
    )


def weights_digest(model: torch.nn.Module) -> str:
    """Return SHA-256, in hex, over name, dtype, shape and little-endian bytes of each parameter, by name.

    A weight that two names share is counted once, under the name that comes first in the model. Buffers that
    a checkpoint holds count too.
    """
    stored = model.state_dict().keys()
    weights = dict(model.named_parameters())
    weights |= {name: value for name, value in model.named_buffers() if name in stored}
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(_little_endian_bytes(value))
    return digest.hexdigest()


def int8_weights_digest(model: torch.nn.Module) -> str:
    """Return SHA-256, in hex, over the numbers that stand for the weights where linear layers are int8.

    First, as in `weights_digest`, the parameters that stay float32: all but the linear layers' weights. Then
    of each linear layer, by name: its name, "int8" and its shape, its integers, and its scales as
    little-endian float32. A weight that is also an embedding counts in both forms.
    """
    import torch  # noqa: PLC0415 - heavy

    linear = {
        f"{name}.weight": part for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)
    }
    digest = hashlib.sha256()
    for name, value in sorted(model.named_parameters()):
        if name not in linear:
            digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
            digest.update(_little_endian_bytes(value))
    for name, layer in sorted(linear.items()):
        integers, scales = quantised(layer.weight.detach().cpu().float().numpy())
        digest.update(f"{name}\0int8\0{integers.shape}\0".encode())
        digest.update(integers.tobytes() + scales.astype("<f4").tobytes())
    return digest.hexdigest()


def quantised_digest(weights: str, form: str, rule: int) -> str:
    """Return SHA-256, in hex, of weights that are quantised when they are opened.

    The digest of the weights before it and the rule decide every number.
    """
    return _sha256(f"{weights}\0{form}\0{rule}")


def config_digest(cfg: ModelConfig) -> str:
    """Return SHA-256, in hex, over the fields that decide what a model computes when it generates.

    Dropout acts in training alone, and a bias that follows from the MLP's form equals one that is spelled
    out.
    """
    decisive = {**to_dict(cfg), "mlp_bias": cfg.mlp_has_bias}
    del decisive["dropout"]
    return _sha256(json.dumps(decisive, sort_keys=True))


def _little_endian_bytes(value: torch.Tensor) -> bytes:
    import torch  # noqa: PLC0415 - heavy

    # Through uint8, because numpy knows fewer number types than torch does.
    raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    if sys.byteorder == "big":
        raw = raw.reshape(-1, value.element_size()).flip(1).contiguous()
    return raw.numpy().tobytes()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _cpu_name() -> str:
    """Return the processor's name where the system tells it, and its widest vector instructions."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor() or platform.machine()
    facts: dict[str, str] = {}
    for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    flags = set(facts.get("flags", "").split())
    widest = "AVX512" if flags >= _AVX512 else "AVX2" if flags >= _AVX2 else "DEFAULT"
    return f"{facts.get('model name') or platform.processor() or platform.machine()} ({widest})"
