"""Import path that users of the original project call; the code is in `niels_gpt.model.config`."""

from niels_gpt.model.config import (
    ConfigError,
    ModelConfig,
    TrainConfig,
    default_p_train,
    load_config_from_json,
    load_json,
    save_json,
    to_dict,
)

__all__ = [
    "ConfigError",
    "ModelConfig",
    "TrainConfig",
    "default_p_train",
    "load_config_from_json",
    "load_json",
    "save_json",
    "to_dict",
]
