"""Record the golden session of this kernel version: `python -m tests.replay.record_golden`.

Done once a version, when `KERNEL_VERSION` was raised and its reason written into `KERNEL_HISTORY`. What was
recorded stays as it is; this refuses to overwrite it.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import anyio

from niels_gpt.conversation import branching
from niels_gpt.conversation.conversation import Conversation
from niels_gpt.conversation.options import ChatOptions
from niels_gpt.decoding.backend import Backend
from niels_gpt.kernels import KERNEL_VERSION
from niels_gpt.replay.replay import Replay, replay
from sessions import open_store
from sessions.formats import read_sessions, write_sessions
from sessions.formats.json_reader import Source
from tests.replay.recordings import Ear, loaded, record_session, say, tiny_checkpoint

DATA = Path(__file__).parent / "data"


def golden_file(version: int) -> Path:
    """Return where the session of a kernel version lies."""
    return DATA / f"kernel-{version}.jsonl"


def replay_file(
    path: Path, checkpoint: Path, folder: Path, load: Callable[[ChatOptions], Backend] | None = None
) -> Replay:
    """Import a golden session into a store in `folder` and replay it."""
    with open_store(folder / "sessions.db") as store:
        [archive] = read_sessions(Source(path), format_name="jsonl")
        store.import_session(archive)
        options = ChatOptions(checkpoint=checkpoint, checkpoint_given=True)
        return anyio.run(
            lambda: replay(
                store,
                "golden",
                options,
                load or (lambda options: loaded(options.checkpoint)),
                every_branch=True,
            )
        )


def main() -> int:
    """Write the file, or say that it is there."""
    path = golden_file(KERNEL_VERSION)
    if path.exists():
        print(f"{path} is there already; raise KERNEL_VERSION first", file=sys.stderr)
        return 1
    DATA.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(loaded(tiny_checkpoint(Path(folder) / "t.pt"))) as model,
    ):
        store_path = Path(folder) / "sessions.db"
        anyio.run(record_session, store_path, model, "golden", [_talk])
        with open_store(store_path) as store, path.open("w", encoding="utf-8") as file:
            write_sessions([store.export_session(store.session("golden").id)], file, format_name="jsonl")
    print(f"wrote {path}")
    return 0


async def _talk(conversation: Conversation) -> None:
    """Every way to draw a token, every end of a reply, and every way to branch."""
    change = conversation.session.change
    await say(conversation, "hello", "who is niels?")
    for key, value in (("top_k", 40), ("top_p", 0.9), ("repetition_penalty", 1.3)):
        await change(key, value)
        await say(conversation, f"now with {key}")
    for key, value in (
        ("min_p", 0.01),
        ("typical_p", 0.95),
        ("frequency_penalty", 0.5),
        ("presence_penalty", 0.5),
    ):
        await change(key, value)
    await say(conversation, "and with everything")
    await change("temperature", 0.0)
    await say(conversation, "what is likeliest?")
    await change("temperature", 0.7)
    await change("max_new_tokens", 120)
    await say(conversation, "tell me more: ünïcødé, 日本, \x00")
    await branching.retry(conversation, Ear())
    await branching.edit(conversation, "tell me less", Ear())
    await change("seed", -3)
    await say(conversation, "good night")


if __name__ == "__main__":
    sys.exit(main())
