"""Record replies of the shipped model and have the verifier re-execute all of them.

`python -m tests.verifier.campaign [--turns N]` asks N questions of the held-out dialogues with float32 and N
with int8 weights, two to a conversation, at temperature 0.9, exports the sessions and verifies every reply.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from niels_gpt.paths import REPO_ROOT, SHIPPED_CHECKPOINT


def questions(count: int) -> list[str]:
    """Return the last questions of as many held-out dialogues."""
    lines = (REPO_ROOT / "data/heldout.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line)["messages"][-1]["content"] for line in lines[:count]]


def record(weights: str, asked: list[str], folder: Path) -> Path:
    """Ask the questions in one session, a new conversation after every second one, and export it."""
    store, archive = folder / f"{weights}.db", folder / f"{weights}.jsonl"
    chat = [sys.executable, "-m", "niels_gpt.chat_cli"]
    lines = [
        line for n, question in enumerate(asked) for line in ([question, "/reset"] if n % 2 else [question])
    ]
    flags = ["--session", "a", "--weights", weights, "--store", str(store)]
    subprocess.run([*chat, *flags], input="\n".join(lines) + "\n", text=True, check=True, capture_output=True)
    export = ["export", "a", "-o", str(archive), "--store", str(store)]
    subprocess.run([*chat, *export], check=True, capture_output=True)
    return archive


def main() -> int:
    """Print a summary per weight form; return 0 if every reply is exact."""
    parser = argparse.ArgumentParser(description="Record replies and verify them with independent code.")
    parser.add_argument("--turns", type=int, default=50, metavar="N", help="replies per weight form (50)")
    flags = parser.parse_args()
    status = 0
    with tempfile.TemporaryDirectory() as folder:
        for weights in ("float32", "int8"):
            archive = record(weights, questions(flags.turns), Path(folder))
            begun = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-m", "verifier", str(archive), str(SHIPPED_CHECKPOINT)],
                capture_output=True, text=True, check=False, cwd=REPO_ROOT,
            )  # fmt: skip
            bad = [line for line in done.stdout.splitlines() if not line.endswith((": exact", "records"))]
            print("\n".join(bad), end="\n" if bad else "")
            print(f"{weights}: {done.stdout.splitlines()[-1]} in {time.perf_counter() - begun:.0f} s")
            status = max(status, done.returncode)
    return status


if __name__ == "__main__":
    sys.exit(main())
