"""The command line of `niels-generate`: flags to one frozen value. A flag's _ and - are the same.

Imports nothing heavy.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from niels_gpt.cli.parser import OneLineParser

PROGRAM = "niels-generate"


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """What the user asked for; the fields are the flags."""

    model: Path
    interactive: bool
    prompt: str | None
    prompts: Path | None
    prompt_tokens: tuple[int, ...] | None
    output: Path | None
    format: str
    stream: bool
    num_return_sequences: int
    max_new_tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    typical_p: float | None
    repetition_penalty: float
    frequency_penalty: float | None
    presence_penalty: float | None
    eos_token_id: int | None
    stop: tuple[str, ...]
    ban: tuple[int, ...]
    num_beams: int
    length_penalty: float
    seed: int
    device: str
    batch_size: int
    threads: int | None
    vocab_size: int | None


def parse_options(argv: Sequence[str]) -> GenerateOptions:
    """Return the options of a command line; SystemExit as argparse does for --help and wrong flags."""
    parser = _parser()
    values = vars(parser.parse_args([_spelled(word) for word in argv]))
    modes = [name for name in ("interactive", "prompt", "prompts", "prompt_tokens") if _given(values[name])]
    if len(modes) != 1:
        found = " and ".join(f"--{mode}" for mode in modes) or "none of them"
        parser.error(f"specify one of --interactive, --prompt, --prompts and --prompt_tokens; found {found}")
    if values["stream"] and (values["prompts"] or values["num_return_sequences"] > 1 or values["output"]):
        parser.error(
            "--stream shows one reply as it comes: leave out --prompts, --output and further samples"
        )
    if values["stream"] and values["num_beams"] > 1:
        parser.error("--stream has no beams: leave out one of the two")
    if values["format"] is None:
        as_lines = values["output"] is not None and values["output"].suffix in {".jsonl", ".json"}
        values["format"] = "jsonl" if as_lines else "text"
    values["stop"] = tuple(values["stop"])
    return GenerateOptions(**values)


def _given(value: object) -> bool:
    return value is not None and value is not False


def _spelled(word: str) -> str:
    """Return a flag with underscores, whatever it was written with; values stay as they are."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog=PROGRAM,
        description="Continue prompts with a checkpoint: one, a file of them, or interactively.",
        epilog="In every flag, _ and - are the same.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--model", "--checkpoint_path", required=True, type=Path, metavar="PATH",
        help="a checkpoint file, or a directory of save_pretrained",
    )  # fmt: skip
    group = parser.add_argument_group("what to continue")
    group.add_argument("--interactive", action="store_true", help="talk to it: the chat of niels-chat")
    group.add_argument("--prompt", metavar="TEXT", help="one text")
    group.add_argument("--prompts", type=Path, metavar="FILE", help="a UTF-8 file, one prompt a line")
    group.add_argument("--prompt_tokens", type=_ids, metavar="IDS", help='token ids, such as "1,2,3"')
    group.add_argument(
        "--num_return_sequences", "--num_samples", type=_from(1), default=1, metavar="N",
        help="samples of each prompt (default 1)",
    )  # fmt: skip
    group.add_argument("--max_new_tokens", type=_from(0), default=100, metavar="N", help="default 100")
    group = parser.add_argument_group("where it goes")
    group.add_argument(
        "--output", type=Path, metavar="FILE",
        help="write here instead of to standard output; the same command goes on after an interruption",
    )  # fmt: skip
    group.add_argument(
        "--format", choices=("text", "jsonl"), help="default: jsonl for an --output that ends so, else text"
    )
    group.add_argument("--stream", action="store_true", help="show the text as it comes")
    _add_sampling(parser.add_argument_group("how tokens are chosen"))
    group = parser.add_argument_group("where it runs")
    group.add_argument(
        "--device", choices=("auto", "cpu", "cuda", "mps"), default="auto",
        help="auto: an accelerator where there is one",
    )  # fmt: skip
    group.add_argument(
        "--batch_size", type=_from(1), default=32, metavar="N", help="replies decoded together (default 32)"
    )
    group.add_argument(
        "--threads", type=_from(1), metavar="N", help="of the kernels; no number changes a bit"
    )
    group.add_argument("--vocab_size", type=_from(1), metavar="N", help="refuse a checkpoint of another size")
    return parser


def _add_sampling(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--temperature", type=float, default=0.8, metavar="X", help="0 is greedy (default 0.8)")
    add("--top_k", type=int, default=50, metavar="N", help="keep the N likeliest tokens (default 50)")
    add("--top_p", type=float, metavar="P", help="keep the likeliest tokens that sum to P")
    add("--min_p", type=float, metavar="P", help="keep tokens at least P times as likely as the likeliest")
    add("--typical_p", type=float, metavar="P", help="keep the most typical tokens that sum to P")
    add(
        "--repetition_penalty", type=float, default=1.0, metavar="X",
        help="above 1: tokens that occurred get less likely (default 1.0)",
    )  # fmt: skip
    add("--frequency_penalty", type=float, metavar="X", help="less likely by how often they occurred")
    add("--presence_penalty", type=float, metavar="X", help="less likely if they occurred at all")
    add("--eos_token_id", type=_from(0), metavar="ID", help="end with this token (default: the model's own)")
    add("--stop", action="append", default=[], metavar="TEXT", help="end before this text; may be repeated")
    add("--ban", type=_ids, default=(), metavar="IDS", help='token ids never chosen, such as "1,2,3"')
    add(
        "--num_beams",
        type=_from(1),
        default=1,
        metavar="N",
        help="search with so many beams; nothing is drawn",
    )
    add("--length_penalty", type=float, default=1.0, metavar="X", help="of the beams (default 1.0)")
    add("--seed", type=_from(0), default=42, metavar="N", help="default 42")


def _from(lowest: int):
    def read(text: str) -> int:
        value = int(text)
        if value < lowest:
            raise argparse.ArgumentTypeError(f"{text!r} is too small, expected at least {lowest}")
        return value

    read.__name__ = "whole number"
    return read


def _ids(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of token ids, such as 1,2,3") from None
