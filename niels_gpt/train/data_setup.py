"""From a plan to training data: dialogues become examples, sources of text become windows.

The two kinds of run differ here and nowhere else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from niels_gpt.data.streams import MissingSourceError, StreamBuildConfig, build_sources
from niels_gpt.model.config import ModelConfig, TrainConfig, default_p_train
from niels_gpt.text.chat_template import Template, template_for
from niels_gpt.text.load import tokenizer_from_json
from niels_gpt.text.tokenizer import Tokenizer
from niels_gpt.train.batch import TrainingData
from niels_gpt.train.batches import Example, ExampleData, encode_dialogue
from niels_gpt.train.config import DataPlan, Recipe, TokenizerPlan
from niels_gpt.train.dialogues import Dialogue, read_dialogues, split_dialogues
from niels_gpt.train.distributed import DistributedContext
from niels_gpt.train.errors import TrainingError
from niels_gpt.train.stream_config import StreamPlan
from niels_gpt.train.window_data import WindowData, mix

Note = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What a run learns from, with the tokenizer and the model's config that fit it."""

    data: TrainingData
    tokenizer: Tokenizer
    model_cfg: ModelConfig
    summary: str


def prepare(
    recipe: Recipe, world: DistributedContext, *, stored_tokenizer: str | None, resumes: bool, note: Note
) -> Prepared:
    """Read what the recipe learns from; ValueErrors (TrainingError, ...) say what is missing or wrong.

    A run that resumes keeps its checkpoint's tokenizer, since its ids are what the weights know. The first
    process fills the cache of streams before the others look into it.
    """
    if recipe.data.dialogues:
        kept = tokenizer_from_json(stored_tokenizer) if resumes else None
        return _dialogues(recipe.data, recipe.model, recipe.train, kept, note=note)
    if stored_tokenizer is not None:
        raise TrainingError(
            "the checkpoint has a tokenizer, and streams are bytes; name data.dialogues to go on"
        )
    if not world.leads:
        world.wait()
    prepared = _streams(recipe.data.streams, recipe.model, recipe.train, note=note)
    if world.leads:
        world.wait()
    return prepared


def _dialogues(
    plan: DataPlan, model_cfg: ModelConfig, cfg: TrainConfig, kept: Tokenizer | None, *, note: Note
) -> Prepared:
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
    )
    summary = f"{len(train_set)} dialogues to learn, {len(val_set)} held out"
    return Prepared(data=data, tokenizer=tokenizer, model_cfg=model_cfg, summary=summary)


def _streams(plan: StreamPlan, model_cfg: ModelConfig, cfg: TrainConfig, *, note: Note) -> Prepared:
    build = StreamBuildConfig(
        roam_root=plan.roam_root,
        primer_path=plan.primer_path,
        cache_dir=plan.cache_dir,
        roam_val_frac=plan.roam_val_frac,
        primer_val_frac=plan.primer_val_frac,
        seed=cfg.seed,
        force_rebuild=plan.force_rebuild,
        allow_missing_sources=plan.allow_missing_sources,
        enabled_sources=plan.enabled_sources,
        required_sources=plan.required_sources,
        folders=plan.folders,
        # The next tag right after a reply is what a byte model stops at: it has to see it there.
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
    return Prepared(
        data=data,
        tokenizer=tokenizer,
        model_cfg=_fitted(model_cfg, tokenizer, note=note),
        summary=f"bytes to learn: {shares}",
    )


def _tokenizer(plan: TokenizerPlan, train_set: Sequence[Dialogue]) -> Tokenizer:
    if plan.kind == "bytes":
        return tokenizer_from_json(None)
    if plan.path is not None:
        return tokenizer_from_json(_read(plan.path))
    from niels_gpt.text.bpe import train_bpe  # noqa: PLC0415 - byte models should not pay for the BPE library

    contents = [message["content"] for dialogue in train_set for message in dialogue]
    return train_bpe(contents, plan.vocab_size)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"cannot read the tokenizer {str(path)!r}: {error}") from error


def _fitted(cfg: ModelConfig, tokenizer: Tokenizer, *, note: Note) -> ModelConfig:
    """Return the config with the tokenizer's V: a text with few pairs gives fewer pieces than asked."""
    if tokenizer.vocab_size == cfg.V:
        return cfg
    note(f"model.V is {tokenizer.vocab_size}, as the tokenizer has it, instead of {cfg.V}")
    return dataclasses.replace(cfg, V=tokenizer.vocab_size)


def _encode(dialogues: Sequence[Dialogue], template: Template, *, T: int, note: Note) -> list[Example]:
    encoded = [encode_dialogue(dialogue, template, T=T) for dialogue in dialogues]
    examples = [example for example in encoded if example is not None]
    if dialogues and not examples:
        raise TrainingError(f"no dialogue has a reply within the first T={T} tokens; raise model.T")
    if len(examples) < len(encoded):
        note(f"{len(encoded) - len(examples)} dialogues have no reply within the first {T} tokens: left out")
    cut = sum(len(example.ids) == T + 1 for example in examples)
    if cut:
        note(f"{cut} dialogues fill all of T={T} tokens; what is longer was cut")
    return examples
