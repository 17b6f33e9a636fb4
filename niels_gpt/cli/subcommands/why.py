"""`niels-chat why NAME`: what else a stored reply could have said at each token, as numbers or a picture.

Needs the checkpoint and nothing else: the logits are computed again. Knows the screen and files;
niels_gpt.replay does the work.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from niels_gpt.atomic_io import write_text
from niels_gpt.cli.exit_codes import OK, UNVERIFIABLE, USAGE
from niels_gpt.cli.subcommands import helpers
from niels_gpt.conversation.errors import ChatError
from niels_gpt.conversation.options import DEFAULT_CHECKPOINT, ChatOptions
from niels_gpt.device import DEVICES
from niels_gpt.terminal.table import cut, width_of_output
from niels_gpt.text.control_characters import harmless

if TYPE_CHECKING:
    from niels_gpt.decoding.backend import Backend
    from niels_gpt.replay.explain import Explained
    from niels_gpt.replay.html_report import Attention


class LayerWithoutPicture(ChatError):  # noqa: N818 - named for what happened, as everywhere in this project
    """`--layer` was given, but no picture to show it in."""

    exit_status = USAGE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    helpers.add_name(parser)
    helpers.add_store(parser)
    helpers.add_json(parser)
    add = parser.add_argument
    add("--turn", type=int, metavar="N", help="which turn, counted from 1 (default: the last)")
    add("--token", type=int, metavar="K", help="one token of the reply, counted from 0, with all candidates")
    add(
        "--layer",
        type=int,
        metavar="L",
        help="what token K (default: the last) looked at in layer L, counted from 0; needs --html or --svg",
    )
    add("--html", type=Path, metavar="FILE", help="write a page with every token shaded by its probability")
    add("--svg", type=Path, metavar="FILE", help="the same as a drawing")
    add("--ckpt", type=Path, metavar="PATH", help="the checkpoint (default: the recorded one)")
    add("--device", choices=DEVICES, default="cpu", help="where the model runs (default: cpu)")


def run(flags: argparse.Namespace) -> int:
    """Explain one reply. UNVERIFIABLE if there is no checkpoint to compute it with."""
    if flags.layer is not None and flags.html is None and flags.svg is None:
        raise LayerWithoutPicture(
            f"--layer {flags.layer} is shown only in a picture: add --html FILE or --svg FILE"
        )
    # Heavy, and a wrong flag must not wait for it.
    from niels_gpt.conversation.opening import open_model  # noqa: PLC0415
    from niels_gpt.replay.environment import recorded_environment  # noqa: PLC0415
    from niels_gpt.replay.explain import explain, step_lines  # noqa: PLC0415
    from niels_gpt.replay.find_checkpoint import Unfit, find_model  # noqa: PLC0415
    from niels_gpt.replay.reconstruct import ask, chosen_turns, questions  # noqa: PLC0415

    options = ChatOptions(
        checkpoint=flags.ckpt or DEFAULT_CHECKPOINT,
        checkpoint_given=flags.ckpt is not None,
        device=flags.device,
    )
    with helpers.opened_store(flags) as store:
        session = helpers.chosen_session(flags, store)
        found = questions(store, session, every_branch=False)
        question = chosen_turns(found, len(found) if flags.turn is None else flags.turn)[0]
        generation = question.recorded.generation
        model = find_model(
            store.checkpoint(generation.checkpoint_id), recorded_environment(generation), options, open_model
        )
    if isinstance(model, Unfit):
        helpers.remark(f"niels-chat why: {model.why}")
        return UNVERIFIABLE
    try:
        explained = explain(model, ask(model, question))
        attention = _attention(model, explained, flags) if flags.layer is not None else None
    finally:
        model.close()
    title = f"{session.name}, turn {question.turn}"
    if flags.html is not None or flags.svg is not None:
        return _write_pictures(explained, attention, title, flags)
    if flags.json:
        steps = explained.steps if flags.token is None else _one(explained, flags.token)
        for step in steps:
            helpers.emit_json(step)
    else:
        width = width_of_output() if sys.stdout.isatty() else None
        helpers.print_page(
            [
                harmless(line if width is None else cut(line, width))
                for line in step_lines(explained, flags.token)
            ]
        )
    return OK


def _one(explained: Explained, token: int) -> tuple[object, ...]:
    if not 0 <= token < len(explained.steps):
        raise ChatError(f"there is no token {token}: the reply has tokens 0 to {len(explained.steps) - 1}")
    return (explained.steps[token],)


def _attention(model: Backend, explained: Explained, flags: argparse.Namespace) -> Attention:
    from niels_gpt.decoding.rescoring import attention_row  # noqa: PLC0415
    from niels_gpt.model.gpt import GPT  # noqa: PLC0415
    from niels_gpt.model.loading import load_model  # noqa: PLC0415
    from niels_gpt.replay.explain import token_text  # noqa: PLC0415
    from niels_gpt.replay.html_report import Attention  # noqa: PLC0415

    token = len(explained.steps) - 1 if flags.token is None else flags.token
    _one(explained, token)
    network = load_model(model.checkpoint["path"]).model
    if not isinstance(network, GPT):
        raise ChatError("this architecture has no attention over single tokens; leave out --layer")
    drawn = [step.chosen.token_id for step in explained.steps[:token]]
    ids = [*explained.request.prompt_ids, *drawn]
    try:
        rows = attention_row(network, ids, flags.layer)
    except ValueError as error:
        raise ChatError(str(error)) from error
    texts = tuple(token_text(model, token_id) for token_id in ids)
    return Attention(token=token, layer=flags.layer, texts=texts, weights=tuple(rows.mean(axis=0).tolist()))


def _write_pictures(
    explained: Explained, attention: Attention | None, title: str, flags: argparse.Namespace
) -> int:
    from niels_gpt.replay.html_report import to_html, to_svg  # noqa: PLC0415

    for path, draw in ((flags.html, to_html), (flags.svg, to_svg)):
        if path is not None:
            try:
                write_text(path, draw(explained, attention, title))
            except OSError as error:
                raise ChatError(f"cannot write {str(path)!r}: {error.strerror}") from error
            helpers.remark(f"wrote {path}")
    return OK
