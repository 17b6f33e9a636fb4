"""The real program with a scripted model instead of a checkpoint, for tests in a terminal.

The first reply is short, the second endless and slow, the others short again.
"""

from __future__ import annotations

import importlib.util
import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from niels_gpt.chat import app
from niels_gpt.chat.loader import Loader
from niels_gpt.chat.options import Options, parse_options


def endless() -> Iterator[str]:
    for number in itertools.count():
        time.sleep(0.005)  # a slow model: the reader must be able to follow
        yield f"la{number} "


def scripted_model() -> Any:
    spec = importlib.util.spec_from_file_location("scripted", Path(__file__).with_name("conftest.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["scripted"] = module
    spec.loader.exec_module(module)
    replies = itertools.chain([["hel", "lo\x1b[31m", " there"], endless()], itertools.repeat(["fine"]))
    return module.ScriptedModel(replies, context_length=10**6)


def loader(options: Options) -> Loader:
    return Loader(options, load_model=lambda _: scripted_model())


if __name__ == "__main__":
    sys.exit(app.run(parse_options(sys.argv[1:]), make_loader=loader))
