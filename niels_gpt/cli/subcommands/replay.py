"""`niels-chat replay NAME`: every reply made again, and a verdict a turn and one in all.

With a checkpoint of different weights it is a comparison, not a verification.
Knows the screen; niels_gpt.replay does the work.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from niels_gpt.cli.exit_codes import DIVERGED, OK, STATUS_OF_VERDICT
from niels_gpt.cli.subcommands import helpers
from niels_gpt.conversation.options import DEFAULT_CHECKPOINT, ChatOptions
from niels_gpt.device import DEVICES
from niels_gpt.terminal.render import may_style
from niels_gpt.terminal.table import counted
from niels_gpt.text.control_characters import harmless

if TYPE_CHECKING:
    from niels_gpt.replay.compare import Compared
    from niels_gpt.replay.replay import Replay

_BAR = 24


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    add = parser.add_argument
    helpers.add_name(parser)
    helpers.add_store(parser)
    helpers.add_json(parser)
    add("--turn", type=int, metavar="N", help="only this turn, counted from 1")
    add("--every-branch", action="store_true", help="replies off the path too: retries, edits, undone turns")
    add("--watch", action="store_true", help="play it as it was, at its own pace")
    add(
        "--speed", type=_positive, default=1.0, metavar="X", help="how much faster --watch plays (default: 1)"
    )
    add(
        "--ckpt",
        type=Path,
        metavar="PATH",
        help="the checkpoint; one of other weights is compared word by word (default: the recorded one)",
    )
    add("--device", choices=DEVICES, default="cpu", help="where the model runs (default: cpu)")
    add("--batch", type=_count, default=32, metavar="N", help="replies made side by side (default: 32)")


def run(flags: argparse.Namespace) -> int:
    """Replay, print what was found, return the status that stands for it."""
    # Heavy, and a wrong flag must not wait for it.
    from niels_gpt.conversation.opening import open_model  # noqa: PLC0415
    from niels_gpt.replay.compare import compare_session, other_model  # noqa: PLC0415
    from niels_gpt.replay.replay import replay  # noqa: PLC0415

    options = ChatOptions(
        checkpoint=flags.ckpt or DEFAULT_CHECKPOINT,
        checkpoint_given=flags.ckpt is not None,
        device=flags.device,
        store=flags.store,
    )
    chosen = {"turn": flags.turn, "every_branch": flags.every_branch, "batch": flags.batch}
    with helpers.opened_store(flags) as store, _Bar() as bar:
        name = helpers.chosen_session(flags, store).name
        other = other_model(store, name, options, open_model) if flags.ckpt is not None else None
        if other is not None:
            with closing(other):
                compared = asyncio.run(compare_session(store, name, other, **chosen, on_progress=bar.show))
            bar.hide()
            return _print_compared(compared, as_json=flags.json)
        found = asyncio.run(replay(store, name, options, open_model, **chosen, on_progress=bar.show))
        bar.hide()
        if flags.watch:
            _watch(found, speed=flags.speed)
        return _print_replay(found, as_json=flags.json)


def _print_replay(found: Replay, *, as_json: bool) -> int:
    from niels_gpt.replay import report  # noqa: PLC0415 - it comes with the replay

    if as_json:
        for verdict in found.verdicts:
            helpers.emit_json(report.turn_value(verdict))
        helpers.emit_json(report.summary_value(found))
    else:
        for line in report.report_lines(found):
            helpers.emit(line)
    return STATUS_OF_VERDICT[found.kind]


def _print_compared(compared: Sequence[Compared], *, as_json: bool) -> int:
    from niels_gpt.replay import word_diff  # noqa: PLC0415

    styled = may_style(sys.stdout)
    for each in compared:
        if as_json:
            helpers.emit_json(each.value())
            continue
        helpers.emit(f"turn {each.turn} > {each.question}")
        pieces = [replace(piece, text=harmless(piece.text)) for piece in each.pieces]
        sys.stdout.write((word_diff.shown(pieces, styled=styled) or each.failure) + "\n")
    same = sum(each.same for each in compared)
    helpers.remark(f"{same} of {counted(len(compared), 'reply', 'replies')} the same")
    return OK if same == len(compared) else DIVERGED


def _watch(found: Replay, *, speed: float) -> None:
    from niels_gpt.replay.playback import play  # noqa: PLC0415

    for question in found.questions:
        helpers.emit(f"> {question.recorded.user.content}")
        sys.stdout.flush()
        play(question.recorded, speed=speed, show=_show, wait=time.sleep)
        _show("\n")


def _show(text: str) -> None:
    sys.stdout.write(harmless(text))
    sys.stdout.flush()


class _Bar:
    """One line on standard error that is rewritten, where that is a terminal; hidden when left."""

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *error: object) -> None:
        self.hide()

    def show(self, done: int, total: int) -> None:
        if sys.stderr.isatty():
            filled = _BAR * done // max(1, total)
            sys.stderr.write(f"\r{'#' * filled}{'.' * (_BAR - filled)} {done} of {total} replies")
            sys.stderr.flush()

    def hide(self) -> None:
        if sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed: a number above 0")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed: a whole number from 1 up")
    return value
