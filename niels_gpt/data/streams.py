"""Sources of text as streams of bytes, split, cached on disk and mapped into memory.

A stream lies in `SOURCE_SPLIT.bin` beside `SOURCE_SPLIT.meta.json`, which says what it was made from; it is
made again when that differs. Documents are written one after the other and read through the page cache, so
a source may be larger than memory.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from niels_gpt.data.primer import DIALOGUE_DELIM
from niels_gpt.data.stream_cache import StreamFile
from niels_gpt.data.stream_sources import FolderSource, PrimerSource, Source, WikiSource
from niels_gpt.errors import ReportedError
from niels_gpt.model.config import ModelConfig

SOURCES = ("wiki", "roam", "primer")
SPLITS = ("train", "val")
Streams = dict[str, memoryview]


class MissingSourceError(ReportedError, RuntimeError):
    """A required source that could not be read; the message names it, the reason and the ways out."""


@dataclass(frozen=True)
class StreamBuildConfig:
    """Where the sources lie, how they are split, and which of them a run cannot do without."""

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
    """What stands between two primer dialogues in the stream; None: the delimiter."""


def build_sources(
    cfg: StreamBuildConfig, *, note: Callable[[str], None] = lambda _: None
) -> tuple[Streams, Streams]:
    """Return the bytes to learn and the bytes held out, by source, from the cache where it still holds.

    A source that cannot be read is left out and said to `note`, unless it is required. One with nothing held
    out is not in the second mapping. Raises MissingSourceError (a RuntimeError) that names a required source,
    or says that there is none at all; ValueError for a stream too short for the default context, names of
    sources that are unknown or required without being enabled, and shares outside [0, 1).
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
    for split, streams in (("train", train), ("val", val)):
        _check_lengths(split, streams)
    return train, val


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
            note(f"{name!r} cannot be reached: going on with what {cfg.cache_dir} holds of it")
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
    """Return a file's bytes without reading them: pages come in as they are touched."""
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
    skip = f"or go on without it: 'allow_missing_sources': true, or leave {name!r} out of 'enabled_sources'"
    match name:
        case "wiki":
            return (
                "pip install 'niels-gpt[wiki]' and go online once; or train on local text: your own "
                "'folders', what is there as 'enabled_sources', or 'allow_missing_sources': true, all in "
                "the configuration's 'data', as in configs/local.json"
            )
        case "primer":
            return f"set 'primer_path' (now {str(cfg.primer_path)!r}), {skip}"
        case _:
            root = cfg.roam_root if name == "roam" else cfg.folders[name]
            return f"put texts into {str(root)!r}, {skip}"


def _reason(error: Exception) -> str:
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said[:200]}" if said else type(error).__name__
