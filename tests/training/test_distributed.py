from __future__ import annotations

import json
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from niels_gpt.model.checkpoint import load_checkpoint
from niels_gpt.train.__main__ import main
from niels_gpt.train.distributed import DistributedContext, leave
from niels_gpt.train.metrics import read_metrics


def free_ports(count: int) -> list[str]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [str(held.getsockname()[1]) for held in sockets]
    for held in sockets:
        held.close()
    return ports


def config_for(folder: Path, parallel: str, kind: str = "adamw") -> Path:
    """Five windows a step, so that two processes have unequal parts; no dropout, which would differ."""
    content: dict[str, Any] = {
        "model": {"T": 32, "C": 16, "L": 2, "H": 2, "d_ff": 32, "dropout": 0.0},
        "train": {"seed": 3, "B": 5, "total_steps": 4, "eval_every": 2, "eval_steps": 1, "ckpt_every": 2,
                  "log_every": 1, "warmup_steps": 1, "base_lr": 1e-2},
        "optimizer": {"kind": kind},
        "data": {
            "folders": {"texts": str(folder)},
            "enabled_sources": ["texts"],
            "cache_dir": str(folder / "cache"),
        },
        "compute": {"parallel": parallel, "threads": 1, "accumulation_steps": 2, "amp": None},
    }  # fmt: skip
    path = folder / f"{parallel}-{kind}.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def losses(out: Path) -> list[float]:
    return [line.get("loss", line.get("val_loss")) for line in read_metrics(out / "metrics.jsonl")]


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(path, device="cpu")["model_state"]


def test_two_processes_learn_what_one_does_and_the_first_alone_speaks(tmp_path: Path) -> None:
    for n in range(2):
        (tmp_path / f"{n}.txt").write_text(f"{n} is what it is, and not another. " * 20, encoding="utf-8")
    whole, sharded = config_for(tmp_path, "ddp"), config_for(tmp_path, "fsdp2")
    muon = config_for(tmp_path, "ddp", "muon")
    one, ddp, fsdp = (tmp_path / name for name in ("one", "ddp", "fsdp2"))
    one_muon, ddp_muon = tmp_path / "one_muon", tmp_path / "ddp_muon"
    assert main(["--config", str(whole), "--out", str(one)]) == 0
    assert main(["--config", str(muon), "--out", str(one_muon)]) == 0

    first, second, third = free_ports(3)
    half = ddp / "step_000002.pt"
    runs = [first, shlex.join(["--config", str(whole), "--out", str(ddp)])]
    runs += [second, shlex.join(["--config", str(sharded), "--out", str(fsdp), "--resume", str(half)])]
    runs += [third, shlex.join(["--config", str(muon), "--out", str(ddp_muon)])]
    command = [sys.executable, "-m", "tests.training.several_runs"]
    processes = [
        subprocess.Popen([*command, str(rank), *runs], stdout=subprocess.PIPE, text=True) for rank in (0, 1)
    ]
    said = [process.communicate(timeout=50)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]

    assert said[1] == ""
    assert "2 processes on cpu" in said[0]
    assert losses(ddp) == pytest.approx(losses(one), rel=1e-5)
    assert losses(fsdp) == pytest.approx(losses(one)[-len(losses(fsdp)) :], rel=1e-5)
    # Muon multiplies in bfloat16, where a rounding of the gradient may move an update by half a percent.
    assert losses(ddp_muon) == pytest.approx(losses(one_muon), rel=1e-3)
    assert losses(ddp_muon) != pytest.approx(losses(ddp), rel=1e-3)
    assert len(losses(fsdp)) == 3  # two steps and an evaluation, from the checkpoint of the other kind
    expected = weights(one / "latest.pt")
    for out in (ddp, fsdp):
        found = weights(out / "latest.pt")
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_muon_is_refused_where_processes_hold_parts_of_matrices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world = DistributedContext(rank=0, size=2, kind="fsdp2")
    monkeypatch.setattr("niels_gpt.train.build.join", lambda **_: (world, "cpu"))
    assert main(["--config", str(config_for(tmp_path, "fsdp2", "muon"))]) == 2
    assert "compute.parallel 'fsdp2' holds parts of them" in capsys.readouterr().err


def test_a_single_process_exchanges_nothing() -> None:
    world = DistributedContext()
    assert (world.sum(2.0), world.broadcast(3.0), world.any(True), world.is_main) == (2.0, 3.0, True, True)
    world.wait()
    leave()
