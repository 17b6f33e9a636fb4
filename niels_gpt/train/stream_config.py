"""The `data` section of a run on streams of bytes: which sources, where they lie, which may be missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from niels_gpt.paths import PRIMER_PATH, REPO_ROOT, ROAM_DIR
from niels_gpt.train.config_reader import Section

STREAM_CACHE = REPO_ROOT / "data" / "cache" / "streams"
DEFAULT_SOURCES = ("wiki", "roam", "primer")
REQUIRED = "wiki"
"""What a run needs unless the configuration says otherwise; everything else is used if it is there."""


@dataclass(frozen=True, kw_only=True)
class StreamPlan:
    """Fields of `niels_gpt.data.streams.StreamBuildConfig` under their own names."""

    enabled_sources: tuple[str, ...] = DEFAULT_SOURCES
    required_sources: tuple[str, ...] = (REQUIRED,)
    allow_missing_sources: bool = False
    force_rebuild: bool = False
    roam_root: Path = ROAM_DIR
    primer_path: Path = PRIMER_PATH
    cache_dir: Path = STREAM_CACHE
    roam_val_frac: float = 0.1
    primer_val_frac: float = 0.1
    folders: Mapping[str, Path] = field(default_factory=dict)


STREAM_KEYS = tuple(StreamPlan.__dataclass_fields__)


def stream_plan(section: Section) -> StreamPlan:
    """Read the section; its keys have been checked. Folders that are named are enabled too."""
    folders = _folders(section.section("folders"))
    enabled = section.words("enabled_sources", (*DEFAULT_SOURCES, *folders))
    required = section.words("required_sources", (REQUIRED,) if REQUIRED in enabled else ())
    return StreamPlan(
        enabled_sources=enabled,
        required_sources=required,
        allow_missing_sources=section.flag("allow_missing_sources", StreamPlan.allow_missing_sources),
        force_rebuild=section.flag("force_rebuild", StreamPlan.force_rebuild),
        roam_root=section.path("roam_root", None, "the path of a folder") or StreamPlan.roam_root,
        primer_path=section.path("primer_path", None, "the path of a file") or StreamPlan.primer_path,
        cache_dir=section.path("cache_dir", None, "the path of a folder") or StreamPlan.cache_dir,
        roam_val_frac=section.share("roam_val_frac", StreamPlan.roam_val_frac),
        primer_val_frac=section.share("primer_val_frac", StreamPlan.primer_val_frac),
        folders=folders,
    )


def _folders(section: Section) -> dict[str, Path]:
    return {name: section.paths(name, "the path of a folder")[0] for name in section.values}
