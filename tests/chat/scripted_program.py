"""The real program with a scripted model instead of a checkpoint, for tests in a terminal.

The first reply is short, then one is endless and slow, one short, one endless, and so on.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterable, Iterator

from niels_gpt.chat import app
from niels_gpt.cli.exit_codes import run_to_status
from niels_gpt.cli.options import parse_options
from niels_gpt.conversation.options import ChatOptions
from niels_gpt.conversation.workspace import Workspace
from tests.chat.scripted_model import ScriptedModel


def endless() -> Iterator[str]:
    for number in itertools.count():
        time.sleep(0.005)  # a slow model: the reader must be able to follow
        yield f"la{number} "


def scripts() -> Iterator[Iterable[str]]:
    yield ["hel", "lo\x1b[31m", " there"]
    while True:
        yield endless()
        yield ["fine"]


def scripted_model() -> ScriptedModel:
    return ScriptedModel(scripts(), context_length=10**6)


def workspace(options: ChatOptions) -> Workspace:
    return Workspace(options, load_model=lambda _: scripted_model())


if __name__ == "__main__":
    options = parse_options(sys.argv[1:])
    sys.exit(run_to_status("niels-chat", lambda: app.run(options, make_workspace=workspace)))
