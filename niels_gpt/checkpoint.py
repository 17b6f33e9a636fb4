"""Import path that users of the original project call; the code is in `niels_gpt.model.checkpoint`."""

from niels_gpt.model.checkpoint import (
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
    validate_model_config_match,
)

__all__ = [
    "CheckpointError",
    "load_checkpoint",
    "save_checkpoint",
    "validate_model_config_match",
]
