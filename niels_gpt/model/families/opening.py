"""Open models of other projects: Hugging Face folders, GGUF files, nanoGPT's and nanochat's checkpoints."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from niels_gpt.model.families import FAMILIES, GGUF_ARCHITECTURES, nanochat, nanogpt
from niels_gpt.model.families.config_reader import ConfigReader, read_json_object
from niels_gpt.model.families.gguf import gguf_config, gguf_layout
from niels_gpt.model.families.mapping import map_weights
from niels_gpt.model.form import Form
from niels_gpt.model.gguf_file import GGUFFile, read_gguf
from niels_gpt.model.safetensors_file import read_folder_tensors
from niels_gpt.model.stored import CheckpointError, StoredTensors
from niels_gpt.model.weights import Weights
from niels_gpt.text.bpe_spec import BPESpec, spec_of
from niels_gpt.text.char_tokenizer import CharTokenizer
from niels_gpt.text.chat_template import Template
from niels_gpt.text.gguf_vocabulary import gguf_end_ids, gguf_spec, gguf_token_texts
from niels_gpt.text.hf_bpe import HFBPETokenizer
from niels_gpt.text.model_template import JinjaTemplate, RawTemplate
from niels_gpt.text.safe_pickle import read_pickle
from niels_gpt.text.tiktoken_ranks import nanochat_spec
from niels_gpt.text.tokenizer import Tokenizer, TokenizerError

CONFIG, GENERATION, TOKENIZER, TOKENIZER_CONFIG = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)
TOKEN_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
NANOCHAT_MODEL = re.compile(r"model_(\d{1,12})\.pt")


@dataclass(frozen=True, kw_only=True)
class OpenedModel:
    """The contents of a model's files."""

    form: Form
    weights: Weights
    tensors: StoredTensors
    """The file's own, which the fingerprint is taken of."""
    tokenizer: Tokenizer
    template: Template
    step: int = 0


def open_folder(folder: Path) -> OpenedModel:
    """Open a Hugging Face folder of one of `FAMILIES`.

    Raises:
        CheckpointError: something is missing, damaged or not supported.

    """
    config = ConfigReader(read_json_object(folder / CONFIG), str(folder / CONFIG))
    kind = config.text("model_type", "")
    if kind not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise CheckpointError(f"{config.where}: model_type {kind!r} is not supported; known are {known}")
    if config.has("quantization_config"):
        method = config.section("quantization_config").text("quant_method", "unknown")
        raise CheckpointError(
            f"{config.where}: quantization_config ({method}) is not supported; use bfloat16 or GGUF"
        )
    family = FAMILIES[kind]
    tensors = read_folder_tensors(folder)
    form, weights = map_weights(family.form(config), family.layout, tensors, where=str(folder))
    tokenizer, template = _folder_text(folder, config, form.V)
    return OpenedModel(form=form, weights=weights, tensors=tensors, tokenizer=tokenizer, template=template)


def open_gguf(path: Path) -> OpenedModel:
    """Open a GGUF file of one of `GGUF_ARCHITECTURES`.

    Raises:
        CheckpointError: something is missing, damaged or not supported.

    """
    file = read_gguf(path)
    arch = file.metadata.get("general.architecture")
    if not isinstance(arch, str) or arch not in GGUF_ARCHITECTURES:
        known = ", ".join(GGUF_ARCHITECTURES)
        raise CheckpointError(f"{str(path)!r}: the architecture {arch!r} is not supported; known are {known}")
    family = FAMILIES[GGUF_ARCHITECTURES[arch]]
    config = gguf_config(file, arch, family)
    form, weights = map_weights(family.form(config), gguf_layout(family), file.tensors, where=str(path))
    tokenizer, template = _gguf_text(file, form.V)
    return OpenedModel(
        form=form, weights=weights, tensors=file.tensors, tokenizer=tokenizer, template=template
    )


def open_nanogpt(path: Path, content: Mapping[str, Any], tensors: StoredTensors) -> OpenedModel:
    """Open nanoGPT's `ckpt.pt`.

    Args:
        path: the file; its folder may hold a `meta.pkl` of characters, or a tokenizer.json.
        content: what is in it.
        tensors: its weights.

    Raises:
        CheckpointError: something is missing, damaged or not supported.

    """
    config = ConfigReader(_mapping(content.get("model_args"), path, "model_args"), f"{path}, model_args")
    form, weights = map_weights(nanogpt.checkpoint_form(config), nanogpt.LAYOUT, tensors, where=str(path))
    meta, vocabulary = path.parent / "meta.pkl", path.parent / TOKENIZER
    try:
        if meta.is_file():
            tokenizer: Tokenizer = CharTokenizer.from_meta(read_pickle(meta), size=form.V)
            template: Template = RawTemplate(tokenizer)
        elif vocabulary.is_file():
            tokenizer, template = _folder_text(path.parent, ConfigReader({}, str(path.parent)), form.V)
        else:
            raise CheckpointError(
                f"{str(path)!r} is a nanoGPT checkpoint without its vocabulary; put the meta.pkl of its data "
                f"set, or GPT-2's {TOKENIZER}, next to it"
            )
    except TokenizerError as error:
        raise CheckpointError(f"{str(meta)!r}: {error}") from error
    step = content.get("iter_num")
    return OpenedModel(
        form=form, weights=weights, tensors=tensors, tokenizer=tokenizer, template=template,
        step=step if isinstance(step, int) else 0,
    )  # fmt: skip


def nanochat_checkpoint(folder: Path) -> Path | None:
    """Return the newest `model_STEP.pt` of a folder that has its `meta_STEP.json`, or None."""
    found = [path for path in folder.glob("model_*.pt") if NANOCHAT_MODEL.fullmatch(path.name)]
    found = [path for path in found if nanochat_meta(path).is_file()]
    return max(found, key=lambda path: int(path.stem.split("_")[1]), default=None)


def nanochat_meta(path: Path) -> Path:
    """Return where the config of a `model_STEP.pt` lies."""
    return path.with_name(path.name.replace("model_", "meta_")).with_suffix(".json")


def open_nanochat(path: Path, tensors: StoredTensors) -> OpenedModel:
    """Open nanochat's `model_STEP.pt` with its `meta_STEP.json`.

    Its tokenizer.pkl is looked for next to it, and in the folder `tokenizer` of the three folders above.

    Raises:
        CheckpointError: something is missing, damaged or not supported.

    """
    meta = ConfigReader(read_json_object(nanochat_meta(path)), str(nanochat_meta(path)))
    config = meta.section("model_config")
    later = "smear_gate.weight" in tensors
    tensors = nanochat.with_named_scalars(tensors, config.whole("n_layer"))
    form, weights = map_weights(
        nanochat.checkpoint_form(config, later=later), nanochat.CHECKPOINT_LAYOUT, tensors, where=str(path)
    )
    places = [path.parent / "tokenizer.pkl"]
    places += [parent / "tokenizer" / "tokenizer.pkl" for parent in list(path.parents)[:4]]
    where = next((place for place in places if place.is_file()), None)
    if where is None:
        raise CheckpointError(f"{str(path)!r} is a nanochat checkpoint without its tokenizer.pkl next to it")
    try:
        tokenizer = HFBPETokenizer(nanochat_spec(read_pickle(where)), size=form.V)
    except TokenizerError as error:
        raise CheckpointError(f"{str(where)!r}: {error}") from error
    names = tokenizer.special_token_ids()
    bos, end = names.get("<|bos|>"), names.get("<|assistant_end|>")
    if bos is None or end is None:
        raise CheckpointError(f"{str(where)!r} lacks the tokens <|bos|> and <|assistant_end|>")
    template = JinjaTemplate(tokenizer, nanochat.CHAT_TEMPLATE, tokens={}, end_ids=(bos, end))
    return OpenedModel(
        form=form, weights=weights, tensors=tensors, tokenizer=tokenizer, template=template,
        step=meta.whole("step", 0),
    )  # fmt: skip


def _folder_text(folder: Path, config: ConfigReader, V: int) -> tuple[HFBPETokenizer, Template]:
    """Return the tokenizer and the template of a folder whose model has V ids."""
    where = folder / TOKENIZER
    if not where.is_file():
        raise CheckpointError(
            f"the folder {str(folder)!r} has no {TOKENIZER}; save the tokenizer in its fast form there"
        )
    stored = read_json_object(where)
    settings = _optional(folder / TOKENIZER_CONFIG)
    tokens = _token_texts(settings)
    try:
        spec = spec_of(stored)
        spec = replace(spec, begin=_begin_ids(stored, spec, settings, tokens))
        tokenizer = HFBPETokenizer(spec, size=V)
    except TokenizerError as error:
        raise CheckpointError(f"{str(where)!r}: {error}") from error
    ids = {piece: n for n, piece in enumerate(spec.pieces)}
    ends = [*_optional(folder / GENERATION).wholes("eos_token_id"), *config.wholes("eos_token_id")]
    ends += [ids[tokens["eos_token"]]] if tokens.get("eos_token") in ids else []
    wrong = [n for n in ends if not 0 <= n < V]
    if wrong:
        raise CheckpointError(f"{config.where}: eos_token_id is {wrong[0]}, expected 0 to {V - 1}")
    return tokenizer, _template(tokenizer, _chat_template(folder, settings), tokens, ends)


def _gguf_text(file: GGUFFile, V: int) -> tuple[HFBPETokenizer, Template]:
    """Return the tokenizer and the template of a GGUF file whose model has V ids."""
    try:
        spec = gguf_spec(file.metadata)
        tokenizer = HFBPETokenizer(spec, size=V)
    except TokenizerError as error:
        raise CheckpointError(f"{str(file.path)!r}: {error}") from error
    source = file.metadata.get("tokenizer.chat_template")
    ends = gguf_end_ids(file.metadata, V)
    tokens = gguf_token_texts(file.metadata, spec.pieces)
    return tokenizer, _template(tokenizer, source if isinstance(source, str) else None, tokens, ends)


def _template(
    tokenizer: HFBPETokenizer, source: str | None, tokens: Mapping[str, str], end_ids: Iterable[int]
) -> Template:
    if source is None:
        return RawTemplate(tokenizer, begin_ids=tokenizer.spec.begin, end_ids=end_ids)
    return JinjaTemplate(tokenizer, source, tokens=tokens, end_ids=end_ids)


def _optional(path: Path) -> ConfigReader:
    return ConfigReader(read_json_object(path) if path.is_file() else {}, str(path))


def _chat_template(folder: Path, settings: ConfigReader) -> str | None:
    """Return a folder's chat template: of its own file, or of the tokenizer's config."""
    own = folder / "chat_template.jinja"
    if own.is_file():
        try:
            return own.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"cannot read {str(own)!r}: {error}") from error
    value = settings.values.get("chat_template")
    if isinstance(value, list):
        named = {one.get("name"): one.get("template") for one in value if isinstance(one, dict)}
        value = named.get("default")
    if value is not None and not isinstance(value, str):
        raise settings.wrong("chat_template", "a text")
    return value


def _token_texts(settings: ConfigReader) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in TOKEN_NAMES:
        value = settings.values.get(name)
        content = value.get("content") if isinstance(value, dict) else value
        if isinstance(content, str):
            found[name] = content
    return found


def _begin_ids(
    stored: Mapping[str, Any], spec: BPESpec, settings: ConfigReader, tokens: Mapping[str, str]
) -> list[int]:
    """Return the ids that a tokenizer puts in front of a text."""
    part = stored.get("post_processor")
    parts = part.get("processors", [part]) if isinstance(part, dict) else []
    for one in parts if isinstance(parts, list) else []:
        if isinstance(one, dict) and one.get("type") == "TemplateProcessing":
            match one.get("single"):
                case [{"SpecialToken": {"id": str(content)}}, *_] if content in spec.pieces:
                    return [list(spec.pieces).index(content)]
    wanted = settings.values.get("add_bos_token") is True and tokens.get("bos_token") in spec.pieces
    return [list(spec.pieces).index(tokens["bos_token"])] if wanted else []


def _mapping(value: object, path: Path, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise CheckpointError(f"{str(path)!r}: {name} is a {type(value).__name__}, expected a dictionary")
    return value
