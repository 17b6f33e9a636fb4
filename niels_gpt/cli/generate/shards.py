"""Name the outputs of shards, and merge them into the output of one process."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from niels_gpt.atomic_io import atomic_write
from niels_gpt.cli.generate.journal import OutputError, journal_of, last_mark, marks_of


def part_of(output: Path, number: int, count: int) -> Path:
    """Return the output of one shard: OUTPUT.0-of-2, OUTPUT.1-of-2."""
    return output.with_name(f"{output.name}.{number}-of-{count}")


def merge(output: Path, *, force: bool) -> int:
    """Write the results of all shards to `output`, in the order of the input; return the number of shards.

    The parts stay. They must be complete, and of one job.

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
    except FileExistsError as error:
        raise OutputError(
            f"{str(output)!r} exists; replace it with --force, or give another --output"
        ) from error
    return len(parts)


def _parts(output: Path) -> list[Path]:
    name = re.compile(re.escape(output.name) + r"\.(\d+)-of-(\d+)(?:\.resume)?")
    found = [match for path in output.parent.glob("*") if (match := name.fullmatch(path.name))]
    counts = sorted({int(match[2]) for match in found})
    if not counts:
        raise OutputError(f"there are no shards of {str(output)!r}; make them with --shard I/N")
    if len(counts) > 1:
        said = " and ".join(map(str, counts))
        raise OutputError(f"there are shards of {str(output)!r} by {said}; remove those that are not wanted")
    return [part_of(output, number, counts[0]) for number in range(counts[0])]
