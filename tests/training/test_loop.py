from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from niels_gpt.decoding.torch_decoder import TorchDecoder
from niels_gpt.generation.greedy import greedy_replies
from niels_gpt.model.checkpoint import load_checkpoint
from niels_gpt.model.config import ModelConfig
from niels_gpt.model.gpt import GPT
from niels_gpt.rng import set_seed
from niels_gpt.text.chat_template import template_for
from niels_gpt.text.tokenizer import ByteTokenizer
from niels_gpt.train.dialogues import Dialogue
from niels_gpt.train.errors import TrainingError
from niels_gpt.train.loop import Run, make_optimizer, train
from niels_gpt.train.resume import start_of

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


def test_a_resumed_run_ends_in_the_weights_of_one_never_stopped(
    model_cfg: ModelConfig, make_run: MakeRun, recorder: Recorder
) -> None:
    cfg = replace(model_cfg, dropout=0.2)
    whole, halves = fresh(cfg), fresh(cfg)
    train(make_run(whole), Recorder())
    stopped = train(make_run(halves), recorder, should_stop=stopped_after(recorder, 3))
    assert (stopped.step, stopped.stopped) == (3, True)

    resumed = fresh(cfg)
    run = make_run(resumed)
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


def test_norms_do_not_decay_and_matrices_do(model: GPT) -> None:
    matrices, vectors = make_optimizer(model, device="cpu").param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)
    assert {p.dim() for p in vectors["params"]} == {1}
    assert sum(len(group["params"]) for group in (matrices, vectors)) == len(list(model.parameters()))
