"""A long session with forks, retries, cancels and a kill -9 is replayed in fresh processes:

    python -m tests.replay.campaign [--turns 100] [--ckpt PATH] [--jobs 16]

alone, as a processor without FMA or AVX would, and while other jobs keep all cores busy. Every reply must be
exact each time; the control, one stored token changed, must not be. Ends with 0 if all of it holds. A short
one is part of the suite.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from niels_gpt.paths import REPO_ROOT, SHIPPED_CHECKPOINT
from sessions import Store, open_store
from tests.replay.long_session import NAME

GENERIC = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
BUSY = "while True: sum(range(10000))"


def main(argv: Sequence[str] | None = None) -> int:
    """Record, replay in every circumstance, print a line for each."""
    parser = argparse.ArgumentParser(prog="tests.replay.campaign", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--turns", type=int, default=100)
    parser.add_argument("--ckpt", type=Path, default=SHIPPED_CHECKPOINT)
    parser.add_argument("--jobs", type=int, default=16, help="that keep the cores busy")
    parser.add_argument("--no-generic", action="store_true", help="not as another processor")
    flags = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        store_path = Path(folder) / "sessions.db"
        checkpoint = Path(shutil.copy(flags.ckpt, folder))  # whatever happens to the file meanwhile
        killed = record(store_path, checkpoint, turns=flags.turns)
        names = described(store_path, killed)
        circumstances: list[tuple[str, Mapping[str, str], int]] = [("alone", {}, 0)]
        if not flags.no_generic:
            circumstances.append(("without FMA and AVX", GENERIC, 0))
        circumstances.append((f"beside {flags.jobs} busy jobs", {}, flags.jobs))
        holds = killed
        for title, environment, jobs in circumstances:
            with busy(jobs):
                holds &= all_exact(title, store_path, names, checkpoint, environment)
        damage(store_path)
        control = replayed(store_path, NAME, checkpoint, {})["verdict"] == "diverged"
        print(f"control, one stored token changed: {'diverged, as it must' if control else 'NOT NOTICED'}")
    return 0 if holds and control else 1


def record(store_path: Path, checkpoint: Path, *, turns: int) -> bool:
    """Talk, kill the program in the middle of a reply once, let it go on; whether a reply was cut off."""
    cut = cut_off(store_path, checkpoint, turns=turns, at=turns // 2)
    talk(store_path, checkpoint, turns=turns)
    return cut


def cut_off(store_path: Path, checkpoint: Path, *, turns: int, at: int) -> bool:
    """Talk, and kill the program in the middle of turn `at` or soon after; whether a reply was cut off."""
    while at < turns:
        talk(store_path, checkpoint, turns=turns, kill_at=at)
        with open_store(store_path) as store:
            if store.pending(store.session(NAME).id) is not None:
                return True
        at += 1  # that reply was stored in time: cut off the next one
    return False


def talk(store_path: Path, checkpoint: Path, *, turns: int, kill_at: int | None = None) -> None:
    """Run the program until it is done, or until it has begun to speak in a turn."""
    command = [sys.executable, "-m", "tests.replay.long_session", str(store_path), str(checkpoint)]
    command += ["--turns", str(turns)]
    with subprocess.Popen(command, cwd=REPO_ROOT, stdout=subprocess.PIPE, text=True) as program:
        for line in program.stdout or ():
            word, _, number = line.partition(" ")
            if kill_at is not None and word == "speaking" and int(number) >= kill_at:
                program.kill()  # SIGKILL: nothing gets to tidy up
                break
    if kill_at is None and program.returncode != 0:
        raise SystemExit(f"the recording program ended with {program.returncode}")


def described(store_path: Path, killed: bool) -> list[str]:
    """Print what was recorded; the names of its sessions."""
    with open_store(store_path) as store:
        names = sorted(summary.name for summary in store.sessions())
        turns = [turn for name in names for turn in _turns(store, name)]
    generations = {turn.generation.id: turn.generation for turn in turns}.values()
    counts = {
        "replies": len(generations),
        "sessions": len(names),
        "retried": sum(each.attempt > 0 for each in generations),
        "forked at a token": sum(bool(each.forced_ids) for each in generations),
        "stopped": sum(each.status == "cancelled" for each in generations),
        "with turns left out": sum(each.trimmed_turns > 0 for each in generations),
        "tokens": sum(int((each.receipt or {}).get("reply_tokens", 0)) for each in generations),  # type: ignore[call-overload]
    }
    print(", ".join(f"{count} {what}" for what, count in counts.items()))
    print("one reply cut off by kill -9 and finished by the next start" if killed else "NOTHING WAS CUT OFF")
    return names


def _turns(store: Store, name: str) -> list[Any]:
    return store.recorded_turns(store.session(name).id, every_branch=True)


def all_exact(
    title: str, store_path: Path, names: Sequence[str], checkpoint: Path, environment: Mapping[str, str]
) -> bool:
    """Replay every session in a process of its own; whether all of it was exact."""
    began = time.perf_counter()
    found = [replayed(store_path, name, checkpoint, environment) for name in names]
    seconds = time.perf_counter() - began
    exact = all(each["verdict"] == "exact" for each in found)
    turns = sum(each["turns"] for each in found)
    said = "exact" if exact else "NOT EXACT: " + ", ".join(sorted({each["verdict"] for each in found}))
    print(
        f"{title}: {turns} replies of {len(names)} sessions {said}, {seconds:.1f} s with {len(names)} starts"
    )
    return exact


def replayed(store_path: Path, name: str, checkpoint: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """Run the command; its last line."""
    command = [sys.executable, "-m", "niels_gpt.chat_cli", "replay", name, "--every-branch", "--json"]
    command += ["--store", str(store_path), "--ckpt", str(checkpoint)]
    done = subprocess.run(
        command,
        cwd=REPO_ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    return json.loads(lines[-1]) if lines else {"verdict": f"status {done.returncode}", "turns": 0}


@contextmanager
def busy(jobs: int) -> Iterator[None]:
    """Keep the cores busy with other processes."""
    with ExitStack() as stack:
        for _ in range(jobs):
            program = stack.enter_context(subprocess.Popen([sys.executable, "-c", BUSY]))
            stack.callback(program.kill)
        yield


def damage(store_path: Path) -> None:
    """Change one token of one reply, behind the store's back."""
    with closing(sqlite3.connect(store_path)) as database, database:
        [row] = database.execute(
            "SELECT id, token_ids FROM message WHERE json_array_length(token_ids) > 2 ORDER BY id LIMIT 1"
        )
        ids = json.loads(row[1])
        ids[1] ^= 1
        database.execute("UPDATE message SET token_ids = ? WHERE id = ?", (json.dumps(ids), row[0]))


if __name__ == "__main__":
    sys.exit(main())
