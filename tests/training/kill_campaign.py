"""Kill training with SIGKILL at random steps, resume it each time, and compare the weights it ends with.

    python -m tests.training.kill_campaign [--config configs/local.json] [--steps 60] [--kills 3] [--seed 0]

Three runs in a folder of their own: one never stopped, one killed and resumed at random steps, and a
control whose checkpoint has forgotten the counter of its randomness. The first two must end with equal
weights, the third must not. Prints a line each and exits 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from niels_gpt.model.fingerprint import weights_digest
from niels_gpt.model.loading import load_model


def train_until(config: Path, out: Path, *, resume: Path | None, kill_after: int | None) -> None:
    """Run the command; SIGKILL it when it says that it has done `kill_after` steps."""
    command = [sys.executable, "-m", "niels_gpt.train", "--config", str(config), "--out", str(out)]
    command += [] if resume is None else ["--resume", str(resume)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            said = re.match(r"step (\d+)/", line)
            if kill_after is not None and said is not None and int(said[1]) >= kill_after:
                process.kill()
                process.stdout.read()
                return
        assert process.stderr is not None
        if process.wait() != 0:
            raise RuntimeError(process.stderr.read())


def killed_and_resumed(config: Path, out: Path, *, kills: Sequence[int]) -> Path:
    """Kill a run after each of the steps, resume it from its latest checkpoint, and let the last one end."""
    latest = out / "latest.pt"
    for kill_after in (*kills, None):
        train_until(config, out, resume=latest if latest.exists() else None, kill_after=kill_after)
    return latest


def without_its_counter(path: Path) -> Path:
    """A copy of a checkpoint whose randomness starts again from nothing."""
    content = torch.load(path, weights_only=True)
    content["run"]["rng"]["counter"] = 0
    forgetful = path.with_name("forgetful.pt")
    torch.save(content, forgetful)
    return forgetful


def weights_of(path: Path) -> str:
    """The digest of a checkpoint's weights."""
    return weights_digest(load_model(path).model)


def texts_of(path: Path) -> str:
    """The digest of the texts that a checkpoint was trained on."""
    return torch.load(path, weights_only=True)["run"]["data"]["digest"]


def small_steps(source: Path, folder: Path, *, steps: int) -> Path:
    """The configuration for `steps` steps that says every one and writes a checkpoint often."""
    content = json.loads(source.read_text(encoding="utf-8"))
    every = max(1, steps // 12)
    content["train"] |= {"total_steps": steps, "ckpt_every": every, "eval_every": 4 * every}
    content["train"] |= {"log_every": 1, "eval_steps": 2}
    config = folder / "config.json"
    config.write_text(json.dumps(content), encoding="utf-8")
    return config


def main(argv: Sequence[str] | None = None) -> int:
    """Run the campaign; 0 if resumed equals whole and the control differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/local.json"))
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    kills = sorted(random.Random(options.seed).sample(range(1, options.steps), options.kills))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = small_steps(options.config, folder, steps=options.steps)
        train_until(config, folder / "whole", resume=None, kill_after=None)
        whole = weights_of(folder / "whole" / "latest.pt")
        print(f"never stopped                    {whole}", flush=True)
        resumed = weights_of(killed_and_resumed(config, folder / "killed", kills=kills))
        print(f"killed after {', '.join(map(str, kills)):20}{resumed}", flush=True)
        if texts_of(folder / "whole" / "latest.pt") != texts_of(folder / "killed" / "latest.pt"):
            print("the texts were edited meanwhile, so this says nothing: run it again")
            return 2
        middle = sorted((folder / "whole").glob("step_*.pt"))[5]
        forgetful = without_its_counter(middle)
        train_until(config, folder / "control", resume=forgetful, kill_after=None)
        control = weights_of(folder / "control" / "latest.pt")
        print(f"resumed without its randomness   {control}")
    return 0 if whole == resumed != control else 1


if __name__ == "__main__":
    sys.exit(main())
