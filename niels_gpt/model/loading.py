"""From a model's files to a model that is ready to generate, with its tokenizer, template and fingerprint.

Our own checkpoints, and those of the original project, which say less about themselves: what their config
leaves out is read off the names of their weights, and weights become float32. Everything else goes to
`niels_gpt.model.families`. Files are mapped; the torch module is built when something asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from niels_gpt.model.catalogue import resolve
from niels_gpt.model.config import ModelConfig
from niels_gpt.model.families.config_reader import read_json_object
from niels_gpt.model.families.mapping import without_wrappers
from niels_gpt.model.fingerprint import Fingerprint, form_fingerprint, state_fingerprint
from niels_gpt.model.form import Form, FormError
from niels_gpt.model.gguf_file import MAGIC
from niels_gpt.model.gpt_form import form_of, weights_from_state
from niels_gpt.model.pretrained import CONFIG, read_pretrained
from niels_gpt.model.pt_file import PtFileError, StoredTensor, read_pt
from niels_gpt.model.state import complete_config, fitted_state, float32_state
from niels_gpt.model.stored import CheckpointError, Stored
from niels_gpt.model.weights import Weights
from niels_gpt.text.chat_template import ChatTemplateError, Template, template_for
from niels_gpt.text.load import tokenizer_from_json
from niels_gpt.text.tokenizer import IdTokenizer, Tokenizer, TokenizerError

if TYPE_CHECKING:
    from niels_gpt.model.families.opening import OpenedModel
    from niels_gpt.model.gpt import GPT
    from niels_gpt.model.registry import AnyModel

KINDS = (
    "a .pt file of niels-gpt, nanoGPT or nanochat, a .gguf file, or a folder with config.json and "
    "model.safetensors"
)
RAW_NOTICE = "this model has no chat template: it continues your text instead of answering"


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """Everything that turns messages into replies, from one file or folder."""

    cfg: ModelConfig | Form
    tokenizer: Tokenizer
    template: Template
    fingerprint: Fingerprint
    step: int
    path: Path
    device: str = "cpu"
    """Where `model` stands."""
    state: Mapping[str, np.ndarray] | None = field(default=None, repr=False)
    """The float32 weights of a checkpoint of ours, by its names."""
    mapped: Weights | None = field(default=None, repr=False)
    """The weights of any other model."""

    @cached_property
    def form(self) -> Form:
        """The form of a transformer; CheckpointError for another architecture."""
        if isinstance(self.cfg, Form):
            return self.cfg
        self._require_gpt()
        return form_of(self.cfg)

    @cached_property
    def weights(self) -> Weights:
        """The weights of `form`; CheckpointError for another architecture."""
        if self.mapped is not None:
            return self.mapped
        self._require_gpt()
        assert isinstance(self.cfg, ModelConfig)  # noqa: S101 - the two come together
        return weights_from_state(self.cfg, self.state or {})

    @cached_property
    def model(self) -> AnyModel:
        """The torch module, float32, in evaluation mode on `device`; built when first asked for."""
        from niels_gpt.model.registry import model_of_state  # noqa: PLC0415 - torch
        from niels_gpt.model.transformer import transformer_of  # noqa: PLC0415 - torch

        if isinstance(self.cfg, Form):
            return transformer_of(self.cfg, self.weights).to(self.device)
        return model_of_state(self.cfg, self.state or {}).to(self.device)

    @property
    def own_cfg(self) -> ModelConfig:
        """The config of a checkpoint of ours; CheckpointError for a model of another project."""
        if isinstance(self.cfg, ModelConfig):
            return self.cfg
        raise CheckpointError(
            f"{str(self.path)!r} is a model of another project: only ours can be changed here"
        )

    @property
    def gpt(self) -> GPT:
        """The model for what only a GPT can do; CheckpointError for another architecture."""
        self._require_gpt()
        return self.model  # pyright: ignore[reportReturnType] - a GPT by its arch

    @property
    def notice(self) -> str | None:
        """A line to show before the first message, or None."""
        return RAW_NOTICE if self.template.name == "raw" else None

    def _require_gpt(self) -> None:
        if self.cfg.arch != "gpt":
            raise CheckpointError(f"{str(self.path)!r} holds a {self.cfg.arch} model, expected a gpt")


def load_model(path: str | Path, *, device: str = "cpu") -> LoadedModel:
    """Open a model from `KINDS`.

    Args:
        path: its file or folder.
        device: where the torch module stands, once it is built.

    Raises:
        CheckpointError: something is missing, not supported, damaged or inconsistent.

    """
    path = resolve(Path(path))
    try:
        return _load(path, device)
    except CheckpointError:
        raise
    except (FormError, ChatTemplateError) as error:
        raise CheckpointError(f"{str(path)!r}: {error}") from error


def _load(path: Path, device: str) -> LoadedModel:
    if path.is_dir():
        return _load_folder(path, device)
    if not path.is_file():
        raise CheckpointError(f"the checkpoint {str(path)!r} does not exist; give {KINDS}")
    with path.open("rb") as file:
        start = file.read(4)
    if start == MAGIC:
        from niels_gpt.model.families.opening import open_gguf  # noqa: PLC0415 - only for models of others

        return _opened(path, open_gguf(path), device)
    if path.suffix == ".safetensors":
        return _load_folder(path.parent, device)
    return _load_pt(path, device)


def _load_folder(folder: Path, device: str) -> LoadedModel:
    from niels_gpt.model.families.opening import nanochat_checkpoint, open_folder  # noqa: PLC0415

    if not (folder / CONFIG).is_file():
        checkpoint = nanochat_checkpoint(folder)
        if checkpoint is not None:
            return _load_pt(checkpoint, device)
        files = [*folder.glob("*.gguf"), *folder.glob("ckpt.pt")]
        if len(files) == 1:
            return _load(files[0], device)
        raise CheckpointError(f"the folder {str(folder)!r} has no {CONFIG}; give {KINDS}")
    config = read_json_object(folder / CONFIG)
    kind = config.get("model_type")
    if kind == "niels-gpt" or (kind is None and ("model" in config or "n_embd" in config)):
        return _own(folder, read_pretrained(folder), device)
    return _opened(folder, open_folder(folder), device)


def read_checkpoint(path: Path) -> dict[Any, Any]:
    """Return the dictionary in a .pt file of any kind, its tensors mapped; CheckpointError."""
    try:
        content = read_pt(path)
    except PtFileError as error:
        raise CheckpointError(f"{error}; give {KINDS}") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{str(path)!r} holds a {type(content).__name__}, expected a dictionary")
    return content


def _load_pt(path: Path, device: str) -> LoadedModel:
    content = read_checkpoint(path)
    if "model_state" in content:
        return _own(path, content, device)
    from niels_gpt.model.families.opening import nanochat_meta, open_nanochat, open_nanogpt  # noqa: PLC0415

    weights = content.get("model") if "model_args" in content else content
    if isinstance(weights, dict):
        tensors = _stored(without_wrappers(weights))
        if "model_args" in content:
            return _opened(path, open_nanogpt(path, content, tensors), device)
        if "transformer.wte.weight" in tensors and "transformer.h.0.attn.c_q.weight" in tensors:
            if not nanochat_meta(path).is_file():
                raise CheckpointError(
                    f"{str(path)!r} is a nanochat checkpoint without {nanochat_meta(path).name} next to it"
                )
            return _opened(path, open_nanochat(path, tensors), device)
    keys = ", ".join(map(repr, list(content)[:4]))
    raise CheckpointError(f"{str(path)!r} is not a checkpoint of a known kind: it holds {keys}; give {KINDS}")


def _stored(weights: Mapping[str, Any]) -> dict[str, Stored]:
    found: dict[str, Stored] = {}
    for name, value in weights.items():
        if isinstance(value, StoredTensor):
            data = np.ascontiguousarray(value.data).reshape(-1).view(np.uint8)
            found[name] = Stored(value.kind, value.shape, data)
    return found


def _opened(path: Path, opened: OpenedModel, device: str) -> LoadedModel:
    return LoadedModel(
        cfg=opened.form,
        mapped=opened.weights,
        tokenizer=opened.tokenizer,
        template=opened.template,
        fingerprint=form_fingerprint(opened.form, opened.tensors, opened.tokenizer, opened.template),
        step=opened.step,
        path=path,
        device=device,
    )


def _own(path: Path, content: Mapping[str, Any], device: str) -> LoadedModel:
    """Load what `save_checkpoint` or `save_pretrained` wrote, or the original project."""
    for key in ("model_cfg", "model_state"):
        if not isinstance(content.get(key), Mapping):
            raise CheckpointError(
                f"{str(path)!r} is not a niels-gpt checkpoint: it has no dictionary {key!r}"
            )
    state = float32_state(content["model_state"], str(path))
    cfg = complete_config(content["model_cfg"], state, str(path))
    state = fitted_state(cfg, state, str(path))
    stored, step = content.get("tokenizer"), content.get("step", 0)
    if stored is not None and not isinstance(stored, str):
        raise CheckpointError(f"{str(path)!r}: tokenizer is a {type(stored).__name__}, expected JSON text")
    if isinstance(step, bool) or not isinstance(step, int):
        raise CheckpointError(f"{str(path)!r}: step is {step!r}, expected a whole number")
    try:
        tokenizer = tokenizer_from_json(stored)
    except TokenizerError as error:
        raise CheckpointError(f"{str(path)!r}: its tokenizer is damaged: {error}") from error
    if stored is None and tokenizer.vocab_size != cfg.V:
        tokenizer = IdTokenizer(cfg.V)
    if tokenizer.vocab_size != cfg.V:
        raise CheckpointError(
            f"{str(path)!r} carries a tokenizer of {tokenizer.vocab_size}, but its model has V={cfg.V}; "
            "save it again with the tokenizer that it was trained on"
        )
    template = template_for(tokenizer)
    return LoadedModel(
        cfg=cfg,
        state=state,
        tokenizer=tokenizer,
        template=template,
        fingerprint=state_fingerprint(state, cfg, tokenizer, template),
        step=step,
        path=path,
        device=device,
    )


def from_pretrained(directory: str | Path, *, device: str = "auto", kind: type | None = None) -> AnyModel:
    """Load a model of any architecture, or of `kind` alone, with its tokenizer; CheckpointError."""
    from niels_gpt.device import device_named, torch_device  # noqa: PLC0415 - torch

    loaded = load_model(directory, device=torch_device(device_named(device), kernels=False))
    if kind is not None and not isinstance(loaded.model, kind):
        raise CheckpointError(
            f"{str(directory)!r} holds a {loaded.cfg.arch} model, expected {kind.__name__}; use its own class"
        )
    model = loaded.model
    model.tokenizer = loaded.tokenizer
    return model
