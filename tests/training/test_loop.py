from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from niels_gpt.decoding.torch_decoder import TorchDecoder
from niels_gpt.generation.batch import greedy_replies
from niels_gpt.model.bdh import BDH
from niels_gpt.model.checkpoint import load_checkpoint
from niels_gpt.model.config import ModelConfig
from niels_gpt.model.gpt import GPT
from niels_gpt.rng import set_seed
from niels_gpt.text.chat_template import template_for
from niels_gpt.text.tokenizer import ByteTokenizer
from niels_gpt.train.dialogues import Dialogue
from niels_gpt.train.errors import TrainingError
from niels_gpt.train.loop import Run, train
from niels_gpt.train.optimizer import MUON_MOMENTUM, WEIGHT_DECAY, MuonOptimizer, make_optimizer
from niels_gpt.train.resume import put_optimizer, start_of
from niels_gpt.train.rng import dropout_seed

from .conftest import Recorder

MakeRun = Callable[..., Run]


def fresh(cfg: ModelConfig) -> GPT:
    set_seed(0)
    return GPT(cfg)


def weights(model: GPT) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def stopped_after(recorder: Recorder, steps: int) -> Callable[[], bool]:
    return lambda: len(recorder.steps) >= steps


def test_two_dialogues_are_learned_by_heart(
    model: GPT, make_run: MakeRun, recorder: Recorder, dialogues: list[Dialogue]
) -> None:
    settings = {"B": 2, "total_steps": 150, "eval_every": 150, "ckpt_every": 150, "base_lr": 2e-2}
    outcome = train(make_run(model, train=settings), recorder)
    assert outcome.best_val_loss < 0.05
    decoder = TorchDecoder(model, ByteTokenizer())
    questions = [dialogue[:2] for dialogue in dialogues]
    replies = greedy_replies(decoder, template_for(ByteTokenizer()), questions, max_new_tokens=40)
    assert replies == ["a man.", "it turns pairs."]  # and no more: their end was learned too


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_resumed_run_ends_in_the_weights_of_one_never_stopped(
    model_cfg: ModelConfig, make_run: MakeRun, recorder: Recorder, kind: str
) -> None:
    cfg = replace(model_cfg, dropout=0.2)
    whole, halves = fresh(cfg), fresh(cfg)
    train(make_run(whole, kind=kind), Recorder())
    stopped = train(make_run(halves, kind=kind), recorder, should_stop=stopped_after(recorder, 3))
    assert (stopped.step, stopped.stopped) == (3, True)

    resumed = fresh(cfg)
    run = make_run(resumed, kind=kind)
    content = load_checkpoint(run.out / "latest.pt", device="cpu")
    resumed.load_state_dict(content["model_state"])
    run.optimizer.load_state_dict(content["optimizer_state"])
    outcome = train(replace(run, start=start_of(content)), recorder)

    assert [report.step for report in recorder.steps] == [1, 2, 3, 4, 5, 6]
    assert outcome.step == 6
    assert equal(weights(resumed), weights(whole))


@pytest.mark.parametrize("forgotten", ["rng", "position"])
def test_without_the_state_of_its_randomness_or_its_data_a_resumed_run_ends_elsewhere(
    model_cfg: ModelConfig, make_run: MakeRun, recorder: Recorder, forgotten: str
) -> None:
    cfg = replace(model_cfg, dropout=0.2)
    whole, resumed = fresh(cfg), fresh(cfg)
    train(make_run(whole), Recorder())
    train(make_run(resumed), recorder, should_stop=stopped_after(recorder, 3))
    run = make_run(resumed)
    content = load_checkpoint(run.out / "latest.pt", device="cpu")
    run.optimizer.load_state_dict(content["optimizer_state"])
    train(replace(run, start=replace(start_of(content), **{forgotten: 0})), Recorder())
    assert not equal(weights(resumed), weights(whole))


def test_checkpoints_have_their_names_and_the_last_step(
    model: GPT, make_run: MakeRun, recorder: Recorder
) -> None:
    run = make_run(model, train={"total_steps": 5})
    train(run, recorder)
    names = sorted(path.name for path in run.out.iterdir())
    assert names == ["best.pt", "latest.pt", "step_000002.pt", "step_000004.pt", "step_000005.pt"]
    assert load_checkpoint(run.out / "latest.pt", device="cpu")["step"] == 5


def test_the_best_checkpoint_has_the_lowest_held_out_loss(
    model: GPT, make_run: MakeRun, recorder: Recorder
) -> None:
    run = make_run(model)
    train(run, recorder)
    best = load_checkpoint(run.out / "best.pt", device="cpu")["best_val_loss"]
    assert best == min(report.val_loss for report in recorder.evaluations)
    assert [report.step for report in recorder.evaluations] == [2, 4, 6]


def test_no_held_out_dialogue_means_no_evaluation(model: GPT, make_run: MakeRun, recorder: Recorder) -> None:
    run = make_run(model, held_out=[])
    assert train(run, recorder).best_val_loss == math.inf
    assert not (run.out / "best.pt").exists()
    assert load_checkpoint(run.out / "latest.pt", device="cpu")["best_val_loss"] is None


def test_the_rate_warms_up_and_ends_at_its_floor(model: GPT, make_run: MakeRun, recorder: Recorder) -> None:
    train(make_run(model), recorder)
    rates = [report.lr for report in recorder.steps]
    assert rates[:2] == [pytest.approx(5e-3), pytest.approx(1e-2)]
    assert rates[-1] == pytest.approx(1e-3)


def test_a_diverged_loss_stops_the_run_with_advice(model: GPT, make_run: MakeRun, recorder: Recorder) -> None:
    with torch.no_grad():
        model.tok_emb.weight.fill_(math.nan)
    with pytest.raises(TrainingError, match=r"loss is nan at step 1.*base_lr"):
        train(make_run(model), recorder)


class Overflowing(torch.autograd.Function):
    """Passes values on and makes their gradient infinite."""

    @staticmethod
    def forward(ctx, x):  # pyright: ignore[reportIncompatibleMethodOverride]
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):  # pyright: ignore[reportIncompatibleMethodOverride]
        return gradient * math.inf


def test_an_infinite_gradient_ends_the_run_before_anything_is_changed_or_saved(
    model: GPT, make_run: MakeRun, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = model.head
    monkeypatch.setattr(model, "head", lambda h: Overflowing.apply(head(h)))
    run, before = make_run(model, train={"total_steps": 1}), weights(model)
    with pytest.raises(TrainingError, match=r"norm of the gradients is (inf|nan) at step 1.*base_lr"):
        train(run, recorder)
    assert equal(weights(model), before)
    assert not (run.out / "latest.pt").exists()


def test_gradients_are_clipped_to_the_limit(
    model: GPT, make_run: MakeRun, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, norms = make_run(model, train={"grad_clip": 0.01, "total_steps": 1}), []
    step = run.optimizer.step

    def recorded(*arguments: object) -> None:
        norms.append(
            float(torch.nn.utils.get_total_norm(p.grad for p in model.parameters() if p.grad is not None))
        )
        step()

    monkeypatch.setattr(run.optimizer, "step", recorded)
    train(run, recorder)
    assert norms == [pytest.approx(0.01, rel=1e-4)]


def test_the_optimizer_has_the_documented_constants(model: GPT) -> None:
    optimizer = make_optimizer(model, device="cpu")
    assert optimizer.defaults["betas"] == (0.9, 0.95)
    assert optimizer.param_groups[0]["weight_decay"] == 0.1


def masks(seed: int, counters: range, *, rank: int = 0) -> list[bytes]:
    found = []
    for counter in counters:
        with torch.random.fork_rng():
            set_seed(dropout_seed(seed, counter, rank=rank))
            found.append(torch.nn.functional.dropout(torch.ones(64), 0.5).numpy().tobytes())
    return found


def test_dropout_depends_on_the_seed_the_step_and_the_process() -> None:
    found = [mask for seed in (1, 2, 42, 2**32 + 1, 2**63) for mask in masks(seed, range(50))]
    found += masks(1, range(50), rank=1)
    assert len(set(found)) == 300


def test_no_two_steps_of_a_run_share_a_seed() -> None:
    assert len({dropout_seed(7, counter) for counter in range(20_000)}) == 20_000
    assert max(dropout_seed(seed, 3) for seed in range(100)) < 2**32


def test_a_state_of_one_group_is_split_into_two(model: GPT, model_cfg: ModelConfig) -> None:
    whole = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95))
    for n, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, n + 1.0)
    whole.step()
    optimizer = make_optimizer(model, device="cpu")
    put_optimizer(
        {"optimizer_state": whole.state_dict()}, optimizer, list(model.parameters()), path=Path("x")
    )
    for parameter in model.parameters():
        assert torch.equal(optimizer.state[parameter]["exp_avg"], whole.state[parameter]["exp_avg"])


def test_a_resumed_run_of_muon_needs_its_momentum(
    model_cfg: ModelConfig, make_run: MakeRun, recorder: Recorder
) -> None:
    whole, resumed = fresh(model_cfg), fresh(model_cfg)
    train(make_run(whole, kind="muon"), Recorder())
    train(make_run(resumed, kind="muon"), recorder, should_stop=stopped_after(recorder, 3))
    run = make_run(resumed, kind="muon")
    content = load_checkpoint(run.out / "latest.pt", device="cpu")
    for held in content["optimizer_state"]["state"].values():
        held.get("momentum_buffer", torch.zeros(1)).zero_()
    run.optimizer.load_state_dict(content["optimizer_state"])
    train(replace(run, start=start_of(content)), Recorder())
    assert not equal(weights(resumed), weights(whole))


def test_muon_learns(model: GPT, make_run: MakeRun, recorder: Recorder) -> None:
    settings = {"B": 2, "total_steps": 40, "eval_every": 40, "ckpt_every": 40, "base_lr": 2e-2}
    assert train(make_run(model, train=settings, kind="muon"), recorder).best_val_loss < 1.5
    assert recorder.steps[0].loss > 5.0


def test_stacked_matrices_are_updated_like_single_ones() -> None:
    """By torch's Muon, which updates them one by one."""
    set_seed(1)
    shapes = [(6, 4)] * 3 + [(4, 6)] * 2 + [(5, 5)]
    stacked, single = ([torch.nn.Parameter(torch.ones(shape)) for shape in shapes] for _ in range(2))
    ours = MuonOptimizer(stacked, torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))]))
    theirs = torch.optim.Muon(
        single, lr=0.1, weight_decay=WEIGHT_DECAY, momentum=MUON_MOMENTUM, adjust_lr_fn="match_rms_adamw"
    )
    for _ in range(3):
        for one, other in zip(stacked, single, strict=True):
            one.grad = torch.randn(one.shape)
            other.grad = one.grad.clone()
        for group in ours.param_groups:
            group["lr"] = 0.1
        ours.step()
        theirs.step()
    for one, other in zip(stacked, single, strict=True):
        torch.testing.assert_close(one, other, rtol=0.01, atol=0.01)  # products in bfloat16
        assert not torch.allclose(one, torch.ones_like(one), atol=0.05)


def test_muon_takes_the_matrices_of_the_layers_and_adamw_the_rest(model: GPT) -> None:
    muon, matrices, vectors = make_optimizer(
        model, device="cpu", kind="muon", layers=model.layers()
    ).param_groups
    assert {id(p) for p in muon["params"]} == {
        id(p) for name, p in model.named_parameters() if name.startswith("blocks") and p.dim() == 2
    }
    assert [p.shape for p in matrices["params"]] == [model.tok_emb.weight.shape]
    assert {p.dim() for p in vectors["params"]} == {1}
    assert (muon["weight_decay"], matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.1, 0.0)


def test_a_model_without_matrices_in_layers_is_refused_for_muon() -> None:
    bdh = BDH(ModelConfig(V=16, T=8, C=8, L=1, H=1, d_ff=16, arch="bdh", tie_embeddings=False))
    with pytest.raises(TrainingError, match=r"optimizer.kind is 'muon'.*expected 'adamw'"):
        make_optimizer(bdh, device="cpu", kind="muon", layers=bdh.layers())


def test_norms_do_not_decay_and_matrices_do(model: GPT) -> None:
    matrices, vectors = make_optimizer(model, device="cpu").param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)
    assert {p.dim() for p in vectors["params"]} == {1}
    assert sum(len(group["params"]) for group in (matrices, vectors)) == len(list(model.parameters()))
