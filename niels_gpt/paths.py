"""Paths of the files of a checkout, and paths as a user writes them. Only `ensure_dirs` touches the disk.

In an installed package there is no checkout: the folders are then those of the working directory, since
site-packages is not a place to write to.
"""

from __future__ import annotations

from pathlib import Path

from niels_gpt.errors import NielsGptError

_PACKAGE = Path(__file__).resolve().parent
IS_CHECKOUT = (_PACKAGE.parent / "pyproject.toml").is_file()
REPO_ROOT = _PACKAGE.parent if IS_CHECKOUT else Path.cwd()
CHECKPOINT_DIR = REPO_ROOT / "checkpoints"
CONFIG_DIR = REPO_ROOT / "configs"
PRIMER_PATH = REPO_ROOT / "data" / "primer.txt"
ROAM_DIR = REPO_ROOT / "data" / ".roam-data"

# In a checkout the shipped checkpoint is among the others; a wheel has it inside the package.
_IN_WHEEL = _PACKAGE / "shipped" / "niels-gpt.pt"
SHIPPED_CHECKPOINT = _IN_WHEEL if _IN_WHEEL.exists() else CHECKPOINT_DIR / "niels-gpt.pt"


def ensure_dirs() -> None:
    """Make the folders that training writes to: checkpoints and configs."""
    CHECKPOINT_DIR.mkdir(parents=True, exist_ok=True)
    CONFIG_DIR.mkdir(parents=True, exist_ok=True)


def user_path(text: str | Path) -> Path:
    """Return a path that a user wrote, with `~` and `~NAME` expanded.

    Raises NielsGptError where no home directory is known for NAME.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        first = Path(text).parts[0]
        raise NielsGptError(f"{str(text)!r}: no home directory is known for {first!r}") from error
