"""Build streams of bytes from sources of text: split, cached on disk and mapped into memory.

A stream is stored in `SOURCE_SPLIT.bin`, next to `SOURCE_SPLIT.meta.json`, which describes its origin; it is
rebuilt when that changes. Documents are written one after the other and read through the page cache, so a
source may be larger than memory.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from niels_gpt.data.primer import DIALOGUE_DELIM
from niels_gpt.data.stream_cache import StreamFile
from niels_gpt.data.stream_sources import FolderSource, PrimerSource, Source, WikiSource
from niels_gpt.errors import ReportedError
from niels_gpt.model.config import ModelConfig
from niels_gpt.paths import IS_CHECKOUT

SOURCES = ("wiki", "roam", "primer")
SPLITS = ("train", "val")
_WIKI_EXTRA = "--editable '.[wiki]'" if IS_CHECKOUT else "'niels-gpt[wiki]'"
Streams = dict[str, memoryview]


class MissingSourceError(ReportedError, RuntimeError):
    """A required source that cannot be used; the message names it, the reason and what to do."""


@dataclass(frozen=True)
class StreamBuildConfig:
    """Locations of the sources, how they are split, and which of them are required."""

    roam_root: str | Path
    primer_path: str | Path
    cache_dir: str | Path
    doc_separator: str = "\n\n"
    roam_val_frac: float = 0.1
    primer_val_frac: float = 0.1
    seed: int = 42
    delimiter: str = DIALOGUE_DELIM
    force_rebuild: bool = False
    allow_missing_sources: bool = False
    enabled_sources: tuple[str, ...] = SOURCES
    required_sources: tuple[str, ...] = SOURCES
    folders: Mapping[str, str | Path] = field(default_factory=dict)
    """Further sources: folders of .md and .txt files by name, split by file with `roam_val_frac`."""
    dialogue_joint: str | None = None
    """The text between two primer dialogues in the stream; None: the delimiter."""


def build_sources(
    cfg: StreamBuildConfig, *, note: Callable[[str], None] = lambda _: None
) -> tuple[Streams, Streams]:
    """Return the training and the held-out bytes by source, from the cache where it is still valid.

    A source that is not required and cannot be read is left out, with a message to `note`. A source without a
    held-out part is not in the second mapping.

    Raises:
        MissingSourceError: A RuntimeError. A required source cannot be read or has an empty validation set,
            or there is no source at all.
        ValueError: A stream is too short for the default context, a source is unknown or required without
            being enabled, or a share is outside [0, 1).

    """
    _check(cfg)
    train: Streams = {}
    val: Streams = {}
    for name in cfg.enabled_sources:
        try:
            streams = _streams(name, cfg, note=note)
        except Exception as error:  # what a data set or a file system raises is open-ended
            reason = f"the source {name!r} cannot be read ({_reason(error)}); {_way_out(name, cfg)}"
            if name in cfg.required_sources and not cfg.allow_missing_sources:
                raise MissingSourceError(reason) from error
            note(f"without {name!r}: {_reason(error)}")
            continue
        train[name] = streams["train"]
        if len(streams["val"]):
            val[name] = streams["val"]
    if not train:
        raise MissingSourceError(
            f"none of the sources {', '.join(cfg.enabled_sources) or 'enabled'} can be read; "
            "name a folder of your own texts in the configuration's data.folders"
        )
    empty = [name for name in train if name not in val and _must_be_held_out(name, cfg)]
    # For a primer, the length of its only dialogue is the more useful error.
    _refuse_empty([name for name in empty if name != "primer"])
    for split, streams in (("train", train), ("val", val)):
        _check_lengths(split, streams)
    _refuse_empty(empty)
    return train, val


def _must_be_held_out(name: str, cfg: StreamBuildConfig) -> bool:
    share = {"wiki": 1.0, "roam": cfg.roam_val_frac, "primer": cfg.primer_val_frac}.get(name, 0.0)
    return share > 0.0 and name in cfg.required_sources and not cfg.allow_missing_sources


def _refuse_empty(names: Sequence[str]) -> None:
    if names:
        raise MissingSourceError(
            f"the required source {names[0]!r} has an empty validation set; add text to it, set its share of "
            "held-out text to 0, or take it out of 'required_sources'"
        )


def _check(cfg: StreamBuildConfig) -> None:
    known, ours = (*SOURCES, *cfg.folders), ", ".join(SOURCES)
    for name in (*cfg.enabled_sources, *cfg.required_sources):
        if name not in known:
            raise ValueError(f"the source {name!r} is unknown, expected some of {', '.join(known)}")
    for name in cfg.required_sources:
        if name not in cfg.enabled_sources:
            raise ValueError(f"required_sources names {name!r}, enabled_sources is {cfg.enabled_sources!r}")
    for name in cfg.folders:
        if name in SOURCES or not name.isidentifier():
            raise ValueError(f"a folder is named {name!r}, expected a plain word other than {ours}")
    for share in ("roam_val_frac", "primer_val_frac"):
        if not 0.0 <= getattr(cfg, share) < 1.0:
            raise ValueError(f"{share} is {getattr(cfg, share)!r}, expected a share in [0, 1)")


def _streams(name: str, cfg: StreamBuildConfig, *, note: Callable[[str], None]) -> Streams:
    source = _source(name, cfg)
    files = {split: StreamFile(Path(cfg.cache_dir), f"{name}_{split}") for split in SPLITS}
    try:
        facts = source.facts()
    except Exception:
        if source.outlives_its_origin and all(file.made_with(source.settings) for file in files.values()):
            note(f"{name!r} cannot be reached: using the copy in {cfg.cache_dir}")
            return {split: _mapped(file.path) for split, file in files.items()}
        raise
    if cfg.force_rebuild or not all(file.holds(source.settings, facts) for file in files.values()):
        for split, documents in source.documents().items():
            files[split].write(documents, source.settings, facts)
        note(f"read {name!r}: " + ", ".join(f"{files[s].size():,} bytes to {s}" for s in SPLITS))
    return {split: _mapped(file.path) for split, file in files.items()}


def _source(name: str, cfg: StreamBuildConfig) -> Source:
    match name:
        case "wiki":
            return WikiSource(separator=cfg.doc_separator)
        case "primer":
            return PrimerSource(
                path=Path(cfg.primer_path),
                val_frac=cfg.primer_val_frac,
                seed=cfg.seed,
                delimiter=cfg.delimiter,
                joint=cfg.delimiter if cfg.dialogue_joint is None else cfg.dialogue_joint,
            )
        case _:
            return FolderSource(
                root=Path(cfg.roam_root if name == "roam" else cfg.folders[name]),
                notes_only=name == "roam",
                val_frac=cfg.roam_val_frac,
                seed=cfg.seed,
                separator=cfg.doc_separator,
            )


def _mapped(path: Path) -> memoryview:
    """Map a file into memory; its pages are read on access."""
    with path.open("rb") as file:
        if path.stat().st_size == 0:  # which cannot be mapped
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _check_lengths(split: str, streams: Streams) -> None:
    T = ModelConfig().T
    for name, stream in streams.items():
        if len(stream) <= T:
            raise ValueError(
                f"the {split} stream of {name!r} has {len(stream)} bytes, expected more than T={T}: add text "
                f"to it, leave {name!r} out of enabled_sources, or hold another share of it out"
            )


def _way_out(name: str, cfg: StreamBuildConfig) -> str:
    skip = f"or do without: 'allow_missing_sources': true, or leave {name!r} out of 'enabled_sources'"
    match name:
        case "wiki":
            return (
                f"pip install {_WIKI_EXTRA} and connect once; or train on local text: your own 'folders', "
                "other 'enabled_sources', or 'allow_missing_sources': true, all in the configuration's "
                "'data', as in configs/local.json"
            )
        case "primer":
            return f"set 'primer_path' (now {str(cfg.primer_path)!r}), {skip}"
        case _:
            root = cfg.roam_root if name == "roam" else cfg.folders[name]
            return f"put texts into {str(root)!r}, {skip}"


def _reason(error: Exception) -> str:
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said[:200]}" if said else type(error).__name__
