"""Seeds, the learning rate, the loss on a stream, the default device, the paths."""

from __future__ import annotations

import hashlib
import math
import sys

import pytest
import torch

from niels_gpt import device, paths
from niels_gpt.device import get_device
from niels_gpt.rng import make_generator, reply_seed, set_seed
from niels_gpt.train.optimizer import lr_at_step
from niels_gpt.train.window_data import eval_loss_on_stream

RATES = {"base_lr": 1.0, "warmup_steps": 10, "min_lr": 0.1}
EVAL = {"B": 4, "T": 8, "device": "cpu", "eval_steps": 3, "seed": 1}


class Uniform(torch.nn.Module):
    """Knows nothing, so its loss is the logarithm of its vocabulary."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []
        self.drop = torch.nn.Dropout(0.5)

    def forward(self, ids):
        assert not self.drop.training
        self.seen.append(ids)
        return torch.zeros(*ids.shape, 256)


def test_a_seed_repeats_the_global_generator():
    with torch.random.fork_rng():
        set_seed(5)
        first = torch.rand(3)
        set_seed(5)
        assert torch.equal(torch.rand(3), first)


def test_generators_of_one_seed_are_equal_and_independent():
    one, two = make_generator(5), make_generator(5, device="cpu")
    assert torch.equal(torch.rand(3, generator=one), torch.rand(3, generator=two))


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1, 1.5, True, None])
def test_a_seed_that_torch_cannot_take_is_an_error(seed):
    with pytest.raises(ValueError, match="the seed is"):
        make_generator(seed)


def test_a_reply_seed_is_the_stated_function():
    digest = hashlib.sha256(b"niels-gpt reply seed 1\x0042\x003\x000").digest()
    assert reply_seed(42, 3, 0) == int.from_bytes(digest[:8], "big") % 2**63


def test_reply_seeds_differ_by_session_turn_and_attempt():
    seeds = {reply_seed(s, t, a) for s in range(12) for t in range(12) for a in range(12)}
    assert len(seeds) == 12**3
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_the_learning_rate_rises_linearly_from_zero():
    assert [lr_at_step(step, 110, **RATES) for step in (0, 5, 10)] == [0.0, 0.5, 1.0]


def test_the_learning_rate_falls_along_a_cosine_and_stays_down():
    middle = lr_at_step(60, 110, **RATES)
    assert middle == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 2)))
    assert [lr_at_step(step, 110, **RATES) for step in (110, 500)] == pytest.approx([0.1, 0.1])


def test_the_learning_rate_needs_no_warm_up_and_no_decay():
    assert lr_at_step(0, 10, base_lr=1.0, warmup_steps=0, min_lr=0.1) == 1.0
    assert lr_at_step(-1, 10, base_lr=1.0, warmup_steps=5, min_lr=0.1) == 0.0
    assert lr_at_step(5, 5, base_lr=1.0, warmup_steps=5, min_lr=0.1) == 1.0


def test_knowing_nothing_costs_the_logarithm_of_the_vocabulary():
    assert eval_loss_on_stream(Uniform(), stream=bytes(range(100)), **EVAL) == pytest.approx(math.log(256))


def test_the_loss_compares_with_the_next_byte():
    class NextByte(torch.nn.Module):
        def forward(self, ids):
            return torch.nn.functional.one_hot((ids + 1) % 256, 256) * 100.0

    assert eval_loss_on_stream(NextByte(), stream=bytes(range(100)), **EVAL) == pytest.approx(0.0, abs=1e-6)


def test_a_seed_repeats_the_batches_of_an_evaluation():
    one, two, other = Uniform(), Uniform(), Uniform()
    stream = bytes(range(200))
    eval_loss_on_stream(one, stream=stream, **EVAL)
    eval_loss_on_stream(two, stream=bytearray(stream), **EVAL)
    eval_loss_on_stream(other, stream=memoryview(stream), **(EVAL | {"seed": 2}))
    assert torch.equal(torch.stack(one.seen), torch.stack(two.seen))
    assert not torch.equal(torch.stack(one.seen), torch.stack(other.seen))


def test_evaluation_gives_the_mode_of_each_part_back():
    model = Uniform()
    model.drop.eval()
    eval_loss_on_stream(model, stream=bytes(50), **EVAL)
    assert model.training
    assert not model.drop.training


def test_evaluation_gives_the_mode_back_after_an_exception():
    class Fails(torch.nn.Module):
        def forward(self, ids):
            raise RuntimeError("broken")

    model = Fails()
    with pytest.raises(RuntimeError, match="broken"):
        eval_loss_on_stream(model, stream=bytes(50), **EVAL)
    assert model.training


@pytest.mark.parametrize("wrong", [{"eval_steps": 0}, {"B": 0}, {"T": 50}])
def test_an_evaluation_that_cannot_be_is_an_error(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        eval_loss_on_stream(Uniform(), stream=bytes(50), **(EVAL | wrong))


def test_the_default_device_is_mps_or_the_cpu():
    assert get_device() in {"mps", "cpu"}


def test_torch_is_asked_for_a_gpu_only_where_there_may_be_one(tmp_path, monkeypatch):
    monkeypatch.setattr(device, "_DRIVERS", (str(tmp_path / "nvidiactl"),))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert device.device_named("auto") == "cpu"
    (tmp_path / "nvidiactl").touch()
    with pytest.raises(ImportError):
        device.device_named("auto")


def test_the_folders_of_a_checkout_are_found():
    assert (paths.REPO_ROOT / "pyproject.toml").is_file()
    paths.ensure_dirs()
    assert paths.CHECKPOINT_DIR.is_dir()
    assert paths.CONFIG_DIR.is_dir()
