"""Parse the command line of `niels-generate`. A flag's _ and - are the same.

This module imports nothing heavy.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from niels_gpt.cli.jobs.ray_tasks import add_ray
from niels_gpt.cli.jobs.shards import add_shard
from niels_gpt.cli.parser import OneLineParser
from niels_gpt.cli.preferences import MOST_THREADS, WEIGHTS_MEANING
from niels_gpt.device import DEVICES
from niels_gpt.kernels import WeightForm

PROGRAM = "niels-generate"
_MOST_BEAMS = 1024
MODES = ("interactive", "prompt", "prompts", "prompt_tokens", "merge")


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """The flags, as one value."""

    model: Path | None
    interactive: bool
    prompt: str | None
    prompts: Path | None
    prompt_tokens: tuple[int, ...] | None
    merge: bool
    input_format: str
    chat: bool | None
    system: str | None
    """None for the chat's: the shipped model's, and none for a model of another project."""
    output: Path | None
    force: bool
    shard: tuple[int, int] | None
    ray: str | None
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
    weights: WeightForm
    vocab_size: int | None


def parse_options(argv: Sequence[str]) -> GenerateOptions:
    """Return the options of a command line; SystemExit as argparse does for --help and wrong flags."""
    parser = build_parser()
    values = vars(parser.parse_args([_spelled(word) for word in argv]))
    modes = [name for name in MODES if _given(values[name])]
    if len(modes) != 1:
        found = " and ".join(f"--{mode}" for mode in modes) or "none of them"
        names = [f"--{mode}" for mode in MODES]
        parser.error(f"please specify one of {', '.join(names[:-1])} and {names[-1]}; found {found}")
    if values["model"] is None and not values["merge"]:
        parser.error("--model is missing: give a checkpoint file, or a directory of save_pretrained")
    _check_output(parser, values)
    if values["stream"] and (values["prompts"] or values["num_return_sequences"] > 1 or values["output"]):
        parser.error(
            "--stream shows one reply as it comes: leave out --prompts, --output and further samples"
        )
    if values["stream"] and values["num_beams"] > 1:
        parser.error("--stream has no beams: leave out one of the two")
    if values["format"] is None:
        values["format"] = "jsonl" if _has_json_lines(values["output"]) else "text"
    if values["input_format"] == "auto":
        values["input_format"] = "jsonl" if _has_json_lines(values["prompts"]) else "text"
    values["stop"] = tuple(values["stop"])
    return GenerateOptions(**values)


def _check_output(parser: argparse.ArgumentParser, values: dict[str, Any]) -> None:
    prompts, output = values["prompts"], values["output"]
    if values["merge"] and output is None:
        parser.error("--merge needs the --output of the shards")
    for flag in ("shard", "ray"):
        if values[flag] is not None and (prompts is None or output is None):
            parser.error(f"--{flag} needs --prompts and --output")
        if values[flag] is not None and not prompts.is_file():
            parser.error(f"--{flag} needs a regular file: --prompts {str(prompts)!r} is not one")
    if values["shard"] is not None and values["ray"] is not None:
        parser.error("--ray runs every shard: leave out --shard")
    is_same = output is not None and prompts is not None and prompts.is_file() and output.exists()
    if output is not None and is_same and output.samefile(prompts):
        parser.error(f"--output is the file of --prompts, {str(prompts)!r}; give another one")


def _has_json_lines(path: Path | None) -> bool:
    return path is not None and path.suffix in {".jsonl", ".ndjson", ".json"}


def _given(value: object) -> bool:
    return value is not None and value is not False


def _spelled(word: str) -> str:
    """Return a flag with underscores in place of hyphens; values are not changed."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `niels-generate`."""
    parser = OneLineParser(
        prog=PROGRAM,
        description="Answer or continue prompts with a checkpoint: one, a file of them, or interactively.",
        epilog="In every flag, _ and - are the same.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--model", "--checkpoint_path", type=Path, metavar="PATH",
        help="a checkpoint file, or a directory of save_pretrained",
    )  # fmt: skip
    group = parser.add_argument_group("prompts")
    group.add_argument("--interactive", action="store_true", help="start the chat of niels-chat")
    group.add_argument("--prompt", metavar="TEXT", help="one text")
    group.add_argument(
        "--prompts", type=Path, metavar="FILE",
        help="a UTF-8 file, one prompt a line: text, JSON, or requests of an OpenAI batch",
    )  # fmt: skip
    group.add_argument(
        "--input_format", choices=("auto", "text", "jsonl"), default="auto",
        help="of --prompts (default: jsonl for a file that ends so, else text)",
    )  # fmt: skip
    group.add_argument("--prompt_tokens", type=_ids, metavar="IDS", help='token ids, such as "1,2,3"')
    group.add_argument(
        "--num_return_sequences", "--num_samples", type=_from(1), default=1, metavar="N",
        help="samples of each prompt (default 1)",
    )  # fmt: skip
    group.add_argument("--max_new_tokens", type=_from(0), default=100, metavar="N", help="default 100")
    group.add_argument(
        "--raw", dest="chat", action="store_const", const=False,
        help="continue the text of a prompt; a model of chats answers it otherwise",
    )  # fmt: skip
    group.add_argument(
        "--chat", dest="chat", action="store_const", const=True, help="answer prompts with any model"
    )
    group.add_argument(
        "--system", metavar="TEXT",
        help="system prompt of answers (default: the chat's); '' for none",
    )  # fmt: skip
    group = parser.add_argument_group("output")
    group.add_argument(
        "--output", type=Path, metavar="FILE",
        help="write here instead of to standard output; after an interruption the same command resumes",
    )  # fmt: skip
    group.add_argument("--force", action="store_true", help="replace an existing --output")
    add_shard(group, "do part I of N of --prompts, counted from 0, and write OUTPUT.I-of-N")
    group.add_argument(
        "--merge",
        action="store_true",
        help="join the outputs of all shards into --output; nothing is generated",
    )
    add_ray(group)
    group.add_argument(
        "--format", choices=("text", "jsonl"), help="default: jsonl for an --output that ends so, else text"
    )
    group.add_argument("--stream", action="store_true", help="show the text as it is generated")
    _add_sampling(parser.add_argument_group("sampling"))
    group = parser.add_argument_group("computation")
    group.add_argument(
        "--device", choices=DEVICES, default="auto",
        help="auto: an accelerator where there is one",
    )  # fmt: skip
    group.add_argument(
        "--batch_size", type=_from(1), default=32, metavar="N", help="replies decoded together (default 32)"
    )
    group.add_argument(
        "--threads",
        type=_from(1, MOST_THREADS),
        metavar="N",
        help="threads of the kernels; the results are the same",
    )
    group.add_argument(
        "--weights", choices=get_args(WeightForm), default="float32", help=WEIGHTS_MEANING
    )  # fmt: skip
    group.add_argument(
        "--vocab_size",
        type=_from(1),
        metavar="N",
        help="refuse a checkpoint with another number of token ids",
    )
    return parser


def _add_sampling(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--temperature", type=float, default=0.8, metavar="X", help="0 is greedy (default 0.8)")
    add(
        "--top_k", type=_top_k, default=50, metavar="N",
        help="keep the N likeliest tokens (default 50); 0 or none for all",
    )  # fmt: skip
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
        type=_from(1, _MOST_BEAMS),
        default=1,
        metavar="N",
        help="number of beams of a beam search; nothing is sampled",
    )
    add("--length_penalty", type=float, default=1.0, metavar="X", help="of the beams (default 1.0)")
    add("--seed", type=_from(0), default=42, metavar="N", help="default 42")


def _from(lowest: int, highest: int | None = None):
    def read(text: str) -> int:
        value = int(text)
        if value < lowest:
            raise argparse.ArgumentTypeError(f"{text!r} is too small, expected at least {lowest}")
        if highest is not None and value > highest:
            raise argparse.ArgumentTypeError(f"{text!r} is too large, expected at most {highest}")
        return value

    read.__name__ = "whole number"
    return read


def _top_k(text: str) -> int | None:
    value = 0 if text.lower() == "none" else int(text)
    return value or None


def _ids(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of token ids, such as 1,2,3") from None
