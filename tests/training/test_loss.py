from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional

from niels_gpt.model.gpt import GPT
from niels_gpt.train.dialogue_data import Example, collate
from niels_gpt.train.loss import TrainingForward, batch_loss, mean_loss


def learned_logits(model: GPT, examples: list[Example]) -> torch.Tensor:
    batch = collate(examples)
    return TrainingForward(model)(batch.inputs, batch.learned)


def test_gathering_before_the_head_gives_the_plain_masked_loss(model: GPT, examples: list[Example]) -> None:
    batch = collate(examples)
    targets = batch.targets.masked_fill(~batch.learned, -100)
    plain = functional.cross_entropy(model(batch.inputs).flatten(0, 1), targets.flatten(), ignore_index=-100)
    torch.testing.assert_close(batch_loss(TrainingForward(model), batch), plain)


def test_without_the_mask_the_loss_is_another(model: GPT, examples: list[Example]) -> None:
    batch = collate(examples)
    everything = dataclasses.replace(batch, learned=torch.ones_like(batch.learned))
    assert (
        abs(batch_loss(TrainingForward(model), batch) - batch_loss(TrainingForward(model), everything)).item()
        > 1e-3
    )


def test_prompts_count_by_their_weight(model: GPT, examples: list[Example]) -> None:
    batch = collate(examples)
    prompts = dataclasses.replace(batch, learned=batch.prompt, prompt=batch.learned)
    expected = batch_loss(TrainingForward(model), batch) + 0.3 * batch_loss(TrainingForward(model), prompts)
    torch.testing.assert_close(batch_loss(TrainingForward(model), batch, prompt_weight=0.3), expected)


def test_padding_is_neither_reply_nor_prompt(examples: list[Example]) -> None:
    batch = collate(examples)
    assert not (batch.learned & batch.prompt).any()
    assert int((batch.learned | batch.prompt).sum()) == batch.tokens < batch.inputs.numel()


def test_a_dialogue_has_the_same_logits_alone_and_in_a_batch(model: GPT, examples: list[Example]) -> None:
    alone = learned_logits(model, examples[:1])
    together = learned_logits(model, examples)
    torch.testing.assert_close(together[: len(alone)], alone, rtol=1e-4, atol=1e-6)


def test_dialogues_glued_into_one_row_would_see_each_other(model: GPT, examples: list[Example]) -> None:
    first, second = examples
    glued = Example(
        np.concatenate([first.ids, second.ids]),
        np.concatenate([np.zeros_like(first.learned), second.learned]),
    )
    alone = learned_logits(model, [second])
    with pytest.raises(AssertionError):
        torch.testing.assert_close(learned_logits(model, [glued]), alone, rtol=1e-4, atol=1e-6)


def test_bfloat16_gives_nearly_the_same_loss(model: GPT, examples: list[Example]) -> None:
    batch = collate(examples)
    plain, rounded = (
        batch_loss(TrainingForward(model), batch),
        batch_loss(TrainingForward(model, amp=True), batch),
    )
    torch.testing.assert_close(rounded, plain, rtol=1e-2, atol=1e-2)
    assert rounded.item() != plain.item()


def test_the_mean_loss_weighs_learned_tokens_not_batches(model: GPT, examples: list[Example]) -> None:
    apart = mean_loss(TrainingForward(model), [collate([example]) for example in examples], device="cpu")
    together = mean_loss(TrainingForward(model), [collate(examples)], device="cpu")
    assert apart == pytest.approx(together, rel=1e-5)


def test_computing_activations_again_changes_nothing(model: GPT, examples: list[Example]) -> None:
    batch, gradients = collate(examples), []
    for recompute in (False, True):
        model.zero_grad()
        batch_loss(TrainingForward(model, recompute=recompute), batch).backward()
        gradients.append(model.tok_emb.weight.grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("prompt_weight", [0.0, 0.3])
def test_the_losses_of_parts_add_up_to_that_of_the_whole(
    model: GPT, examples: list[Example], count: int, prompt_weight: float
) -> None:
    forward, batch = TrainingForward(model), collate(examples)
    parts = [batch_loss(forward, part, prompt_weight=prompt_weight) for part in batch.parts(count)]
    whole = batch_loss(forward, batch, prompt_weight=prompt_weight)
    torch.testing.assert_close(torch.stack(parts).sum(), whole)


def test_a_part_without_rows_has_a_gradient_of_zero(model: GPT, examples: list[Example]) -> None:
    forward, idle = TrainingForward(model), collate(examples).parts(3)[0]
    batch_loss(forward, idle).backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())
