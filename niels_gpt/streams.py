"""Import path that users of the original project call; the code is in `niels_gpt.data.streams`."""

from niels_gpt.data.streams import (
    StreamBuildConfig,
    build_sources,
)

__all__ = [
    "StreamBuildConfig",
    "build_sources",
]
