"""Split a file of prompts over shards, kill workers at random, merge, and compare with one process.

    python -m bench.shards [--count 1000] [--tokens 8] [--shards 1 2 7 64] [--kills 1] [--ray] [--seed 0]

Prints tokens/s of one process, peak memory at a tenth and at all of the prompts, the time that a resumed run
takes to verify and continue its output, and whether the merged output of each number of shards, of two
workers that are both killed at random moments, and (with --ray) of a Ray cluster on this machine has the
bytes of one process. The exit status is 1 if any differs.
"""

from __future__ import annotations

import argparse
import json
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

KILLED_WORKERS = 2
KILLED_AFTER = (2.0, 8.0)  # seconds: from the middle of a start to well into the prompts
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
        """Return the output of workers that are each killed at random moments, and the number of kills."""
        output, rng = self.folder / "killed.jsonl", random.Random(self.options.seed)
        kills = 0
        for number in range(KILLED_WORKERS):
            left = self.options.kills
            while True:
                limit = rng.uniform(*KILLED_AFTER) if left else None
                shard = f"{number}/{KILLED_WORKERS}"
                status, _, _ = self.process(output, "--shard", shard, kill_after=limit)
                if status == 0:
                    break
                left, kills = max(0, left - 1), kills + 1
        merge(output, force=True)
        return output.read_bytes(), kills

    def by_ray(self) -> bytes:
        """Return the output of a Ray cluster that is started on this machine."""
        output = self.folder / "by-ray.jsonl"
        if generate(self.flags(output, "--ray")) != 0:
            sys.exit(1)
        return output.read_bytes()

    def resume_seconds(self, output: Path) -> float:
        """Return the time to verify an output that was cut off in its last result."""
        part = part_of(output, 0, KILLED_WORKERS)
        beside = journal_of(part)
        marks = beside.read_bytes().splitlines(keepends=True)
        beside.write_bytes(b"".join(marks[:-2]))  # without the last prompt, and the end
        head = next(marks_of(beside))
        began = time.perf_counter()
        source = open_input(self.prompts)
        with Journal(part, job=head["job"], source=source, keeps_marks=True) as journal:
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
    parser.add_argument("--kills", type=int, default=1, help="of each worker")
    parser.add_argument("--ray", action="store_true", help="on a Ray cluster of this machine too")
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
    tokens = sum(len(json.loads(line)["token_ids"]) for line in expected.splitlines())
    speed = f"{tokens:,} tokens, {tokens / seconds:,.0f} a second of processor time, all included"
    print(f"\n{options.count:,} prompts, one process: {speed}")
    print(f"peak memory: {small / 1024:,.0f} MiB at a tenth of them, {large / 1024:,.0f} MiB at all of them")
    equal = {True: "equal", False: "DIFFERENT"}
    rows = [[f"shards: {count}", equal[campaign.sharded(count) == expected]] for count in options.shards]
    found, kills = campaign.killed()
    rows.append([f"shards: {KILLED_WORKERS}, kills: {kills}", equal[found == expected]])
    if options.ray:
        rows.append(["Ray", equal[campaign.by_ray() == expected]])
    print(f"verified for resuming in {campaign.resume_seconds(folder / 'killed.jsonl'):.3f} s\n")
    print(table(["output of", "compared with one process"], rows))
    return int(any(row[1] != "equal" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
