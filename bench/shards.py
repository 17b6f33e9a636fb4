"""Split a file of prompts over shards, kill workers at random, merge, and compare with one process.

    python -m bench.shards [--count 1000] [--tokens 8] [--shards 1 2 7 64] [--kills 5] [--seed 0]

Prints tokens/s of one process, peak memory at a tenth and at all of the prompts, the time that a resumed run
takes to verify and continue its output, and whether the merged output of each number of shards, and of a
worker that is killed at random moments, has the bytes of one process. The exit status is 1 if any differs.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.measure import facts, table
from niels_gpt.cli.generate.input_file import open_input
from niels_gpt.cli.jobs.journal import Journal, journal_of, marks_of
from niels_gpt.cli.jobs.shards import merge, part_of
from niels_gpt.generate_cli import main as generate
from niels_gpt.paths import SHIPPED_CHECKPOINT

KINDS = ("what is {}?", "tell me about number {} and why it matters.", "{} and", "once there were {}")


class Campaign:
    """The runs of one benchmark, in a folder of their own."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder, self.options = folder, options
        self.prompts = folder / "prompts.txt"
        self.write_prompts(options.count)

    def write_prompts(self, count: int) -> None:
        """Write prompts of different lengths, with a blank line now and then."""
        lines = (KINDS[n % 4].format(n) + ("\n" if n % 10 == 0 else "") for n in range(count))
        self.prompts.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def flags(self, output: Path, *more: object) -> list[str]:
        """Return the arguments of a run."""
        found = [
            "--model", self.options.ckpt, "--prompts", self.prompts, "--output", output, "--max_new_tokens",
            self.options.tokens, "--batch_size", self.options.batch_size, "--threads", 1, *more,
        ]  # fmt: skip
        return list(map(str, found))

    def process(self, output: Path, *more: object, kill_after: float | None = None) -> tuple[int, float, int]:
        """Run a process of its own; return its status, its processor seconds and its peak memory in KiB."""
        command = [sys.executable, "-m", "niels_gpt.generate_cli", *self.flags(output, *more)]
        child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        if kill_after is not None:
            try:
                child.wait(kill_after)
            except subprocess.TimeoutExpired:
                child.kill()
        if child.returncode is not None:
            return child.returncode, 0.0, 0
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        return child.returncode, usage.ru_utime + usage.ru_stime, usage.ru_maxrss

    def sharded(self, count: int) -> bytes:
        """Return the merged output of shards, made in a random order."""
        output = self.folder / f"by-{count}.jsonl"
        order = list(range(count))
        random.Random(self.options.seed).shuffle(order)
        for number in order:
            if generate(self.flags(output, "--shard", f"{number}/{count}")) != 0:
                sys.exit(1)
        merge(output, force=True)
        return output.read_bytes()

    def killed(self) -> tuple[bytes, int]:
        """Return the output of a worker that is killed at random moments, and the number of kills."""
        output, rng = self.folder / "killed.jsonl", random.Random(self.options.seed)
        kills = 0
        while True:
            limit = rng.uniform(2.0, 8.0) if kills < self.options.kills else None
            status, _, _ = self.process(output, "--shard", "0/1", kill_after=limit)
            if status == 0:
                break
            kills += 1
        merge(output, force=True)
        return output.read_bytes(), kills

    def resume_seconds(self, output: Path) -> float:
        """Return the time to verify an output that was cut off in its last result."""
        beside = journal_of(part_of(output, 0, 1))
        marks = beside.read_bytes().splitlines(keepends=True)
        beside.write_bytes(b"".join(marks[:-2]))  # without the last prompt, and the end
        head = next(marks_of(beside))
        began = time.perf_counter()
        source = open_input(self.prompts)
        with Journal(part_of(output, 0, 1), job=head["job"], source=source, keeps_marks=True) as journal:
            next(source.lines(journal.place), None)
            return time.perf_counter() - began


def main(argv: Sequence[str] | None = None) -> int:
    """Run the campaign; 1 if any output differs."""
    parser = argparse.ArgumentParser(prog="bench.shards", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--ckpt", type=Path, default=SHIPPED_CHECKPOINT)
    parser.add_argument("--count", type=int, default=1000, help="prompts")
    parser.add_argument("--tokens", type=int, default=8, help="most new tokens of a reply")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 2, 7, 64])
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        return report(Campaign(Path(name), options))


def report(campaign: Campaign) -> int:
    """Run everything and print what was found; the exit status."""
    options, folder = campaign.options, campaign.folder
    print("\n".join(f"{name}: {value}" for name, value in facts().items()))
    campaign.write_prompts(max(1, options.count // 10))
    _, _, small = campaign.process(folder / "small.jsonl")
    campaign.write_prompts(options.count)
    whole = folder / "whole.jsonl"
    _, seconds, large = campaign.process(whole)
    expected = whole.read_bytes()
    tokens = expected.count(b'"token_ids"') * options.tokens
    speed = f"up to {tokens / seconds:,.0f} tokens/s of processor time"
    print(f"\n{options.count:,} prompts, one process: {speed}")
    print(f"peak memory: {small / 1024:,.0f} MiB at a tenth of them, {large / 1024:,.0f} MiB at all of them")
    equal = {True: "equal", False: "DIFFERENT"}
    rows = [[f"{count} shards", equal[campaign.sharded(count) == expected]] for count in options.shards]
    found, kills = campaign.killed()
    rows.append([f"a worker killed {kills} times", equal[found == expected]])
    print(f"verified for resuming in {campaign.resume_seconds(folder / 'killed.jsonl'):.3f} s\n")
    print(table(["output of", "compared with one process"], rows))
    return int(any(row[1] != "equal" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
