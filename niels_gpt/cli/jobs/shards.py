"""Name the outputs of shards, and merge them into the output of one process."""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from niels_gpt.atomic_io import atomic_write
from niels_gpt.cli.jobs.journal import OutputError, journal_of, last_mark, marks_of


def add_shard(parser: Any, text: str) -> None:
    """Add `--shard` to a parser or a group of one, with its help."""
    parser.add_argument("--shard", type=_shard, metavar="I/N", help=text)


def _shard(text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a shard, such as 0/4 to 3/4")
    return int(number), int(count)


def part_of(output: Path, number: int, count: int) -> Path:
    """Return the output of one shard: OUTPUT.0-of-2, OUTPUT.1-of-2."""
    return output.with_name(f"{output.name}.{number}-of-{count}")


def merge(output: Path, *, force: bool, tail: Callable[[Sequence[Path]], bytes] = lambda _parts: b"") -> int:
    """Write the results of all shards to `output`, in the order of the input; return the number of shards.

    The parts stay. They must be complete, and of one job.

    Args:
        output: The file that the shards' outputs are named after.
        force: Replace an existing output.
        tail: Returns what ends the output, from the parts.

    Raises:
        OutputError: A part is missing, unfinished or of another job, or the output exists.

    """
    parts = _parts(output)
    jobs = []
    for part in parts:
        head, last = next(marks_of(journal_of(part)), None), None
        if head is not None:
            last = last_mark(journal_of(part))
        if head is None or last is None or last.get("complete") is not True or not part.exists():
            raise OutputError(f"{str(part)!r} is not finished; run the command of its --shard again")
        jobs.append(head)
    different = next((part for part, job in zip(parts, jobs, strict=True) if job != jobs[0]), None)
    if different is not None:
        raise OutputError(
            f"{str(different)!r} and {str(parts[0])!r} are of different models, inputs or settings; run "
            "one of them again with --force"
        )
    try:
        with atomic_write(output, overwrite=force) as file:
            for part in parts:
                with part.open("rb") as source:
                    shutil.copyfileobj(source, file, 2**20)
            file.write(tail(parts))
    except FileExistsError as error:
        raise OutputError(
            f"{str(output)!r} exists; replace it with --force, or give another --output"
        ) from error
    return len(parts)


def count_of(output: Path) -> int | None:
    """Return the number of shards that an output was begun with, None if there are none yet.

    Raises:
        OutputError: There are shards by different numbers.

    """
    name = re.compile(re.escape(output.name) + r"\.(\d+)-of-(\d+)(?:\.resume)?")
    found = [match for path in output.parent.glob("*") if (match := name.fullmatch(path.name))]
    counts = sorted({int(match[2]) for match in found})
    if len(counts) > 1:
        said = " and ".join(map(str, counts))
        raise OutputError(f"there are shards of {str(output)!r} by {said}; remove those that are not wanted")
    return counts[0] if counts else None


def _parts(output: Path) -> list[Path]:
    count = count_of(output)
    if count is None:
        raise OutputError(f"there are no shards of {str(output)!r}; make them with --shard I/N")
    return [part_of(output, number, count) for number in range(count)]
