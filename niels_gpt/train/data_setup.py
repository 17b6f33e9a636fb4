"""Prepare training data from a configuration: dialogues become examples, sources of text become windows.

The two kinds of run differ only here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from niels_gpt.data.streams import MissingSourceError, StreamBuildConfig, build_sources
from niels_gpt.model.config import ModelConfig, TrainConfig, default_p_train
from niels_gpt.text.chat_template import Template, template_for
from niels_gpt.text.files import UnreadableTextError, read_text
from niels_gpt.text.load import tokenizer_from_json
from niels_gpt.text.tokenizer import Tokenizer
from niels_gpt.train.batch import TrainingData
from niels_gpt.train.config import DialogueConfig, RunConfig, StreamConfig, TokenizerConfig
from niels_gpt.train.dialogue_data import Example, ExampleData, encode_dialogue
from niels_gpt.train.dialogues import Dialogue, read_dialogues, split_dialogues
from niels_gpt.train.distributed import DistributedContext
from niels_gpt.train.errors import TrainingError
from niels_gpt.train.window_data import WindowData, mix

Note = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class PreparedData:
    """The data of a run, with the tokenizer and the model config that fit them."""

    data: TrainingData
    tokenizer: Tokenizer
    model_cfg: ModelConfig
    summary: str


def prepare_data(
    config: RunConfig, world: DistributedContext, *, stored_tokenizer: str | None, resumes: bool, note: Note
) -> PreparedData:
    """Read the data of a run.

    A run that resumes keeps its checkpoint's tokenizer, whose ids the weights were trained on. The main
    process fills the cache of streams before the others read it.

    Raises:
        ValueError: TrainingError and others; the message names what is missing or wrong.

    """
    if isinstance(config.data, DialogueConfig):
        kept = tokenizer_from_json(stored_tokenizer) if resumes else None
        return _dialogues(config.data, config.model, config.train, kept, note=note)
    if stored_tokenizer is not None:
        raise TrainingError(
            "the checkpoint has a tokenizer, and streams are bytes; name data.dialogues to continue"
        )
    if not world.is_main:
        world.wait()
    prepared = _streams(config.data, config.model, config.train, note=note)
    if world.is_main:
        world.wait()
    return prepared


def _dialogues(
    plan: DialogueConfig, model_cfg: ModelConfig, cfg: TrainConfig, kept: Tokenizer | None, *, note: Note
) -> PreparedData:
    dialogues = read_dialogues(plan.dialogues)
    train_set, val_set = split_dialogues(dialogues, val_frac=plan.val_frac, seed=cfg.seed)
    tokenizer = _tokenizer(plan.tokenizer, train_set) if kept is None else kept
    template = template_for(tokenizer)
    model_cfg = _fitted(model_cfg, tokenizer, note=note)
    data = ExampleData(
        _encode(train_set, template, T=model_cfg.T, note=note),
        _encode(val_set, template, T=model_cfg.T, note=note),
        places=cfg.B * model_cfg.T,
        seed=cfg.seed,
        limit=cfg.eval_steps,
        pad_to=plan.pad_to,
    )
    summary = f"{len(train_set)} dialogues to learn, {len(val_set)} held out"
    return PreparedData(data=data, tokenizer=tokenizer, model_cfg=model_cfg, summary=summary)


def _streams(plan: StreamConfig, model_cfg: ModelConfig, cfg: TrainConfig, *, note: Note) -> PreparedData:
    build = StreamBuildConfig(
        roam_root=plan.roam_root,
        primer_path=plan.primer_path,
        cache_dir=plan.cache_dir,
        roam_val_frac=plan.roam_val_frac,
        primer_val_frac=plan.primer_val_frac,
        seed=cfg.seed,
        force_rebuild=plan.force_rebuild,
        allow_missing_sources=plan.allow_missing_sources,
        enabled_sources=plan.enabled,
        required_sources=plan.required,
        folders=plan.folders,
        # A byte model stops at the next tag right after a reply, so training data must have it there.
        dialogue_joint="",
    )
    try:
        train, val = build_sources(build, note=note)
    except MissingSourceError as error:
        raise TrainingError(str(error)) from error
    default = default_p_train()
    p = mix(cfg.p_train, train, default=default, folder_share=default["roam"])
    tokenizer = tokenizer_from_json(None)
    data = WindowData(train, val, p=p, cfg=cfg, T=model_cfg.T)
    shares = ", ".join(f"{name} {len(train[name]):,} ({share:.1%})" for name, share in p.items())
    return PreparedData(
        data=data,
        tokenizer=tokenizer,
        model_cfg=_fitted(model_cfg, tokenizer, note=note),
        summary=f"bytes to learn: {shares}",
    )


def _tokenizer(plan: TokenizerConfig, train_set: Sequence[Dialogue]) -> Tokenizer:
    if plan.kind == "bytes":
        return tokenizer_from_json(None)
    if plan.path is not None:
        return tokenizer_from_json(_read(plan.path))
    from niels_gpt.text.bpe import train_bpe  # noqa: PLC0415 - byte models should not pay for the BPE library

    contents = [message["content"] for dialogue in train_set for message in dialogue]
    return train_bpe(contents, plan.vocab_size)


def _read(path: Path) -> str:
    try:
        return read_text(path, "the tokenizer")
    except UnreadableTextError as error:
        raise TrainingError(str(error)) from error


def _fitted(cfg: ModelConfig, tokenizer: Tokenizer, *, note: Note) -> ModelConfig:
    """Return the config with the tokenizer's V: a text with few pairs gives fewer pieces than requested."""
    if tokenizer.vocab_size == cfg.V:
        return cfg
    note(f"model.V is {tokenizer.vocab_size}, the size of the tokenizer, instead of {cfg.V}")
    return dataclasses.replace(cfg, V=tokenizer.vocab_size)


def _encode(dialogues: Sequence[Dialogue], template: Template, *, T: int, note: Note) -> list[Example]:
    encoded = [encode_dialogue(dialogue, template, T=T) for dialogue in dialogues]
    examples = [example for example in encoded if example is not None]
    if dialogues and not examples:
        raise TrainingError(f"no dialogue has a reply within the first T={T} tokens; raise model.T")
    if len(examples) < len(encoded):
        count = len(encoded) - len(examples)
        note(f"{count} dialogues have no reply within the first {T} tokens and are left out")
    cut = sum(len(example.ids) == T + 1 for example in examples)
    if cut:
        note(f"{cut} dialogues reach T={T} tokens and are cut there")
    return examples
