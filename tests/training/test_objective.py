from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn import functional

from niels_gpt.model.gpt import GPT
from niels_gpt.train.batches import Example, collate
from niels_gpt.train.objective import batch_loss, evaluating, logits_at, mean_loss


def learned_logits(model: GPT, examples: list[Example]) -> torch.Tensor:
    batch = collate(examples)
    return logits_at(model, batch, batch.learned, amp=False)


def test_gathering_before_the_head_gives_the_plain_masked_loss(model: GPT, examples: list[Example]) -> None:
    batch = collate(examples)
    targets = batch.targets.masked_fill(~batch.learned, -100)
    plain = functional.cross_entropy(model(batch.inputs).flatten(0, 1), targets.flatten(), ignore_index=-100)
    torch.testing.assert_close(batch_loss(model, batch), plain)


def test_without_the_mask_the_loss_is_another(model: GPT, examples: list[Example]) -> None:
    batch = collate(examples)
    everything = dataclasses.replace(batch, learned=torch.ones_like(batch.learned))
    assert abs(batch_loss(model, batch) - batch_loss(model, everything)).item() > 1e-3


def test_prompts_count_by_their_weight(model: GPT, examples: list[Example]) -> None:
    batch = collate(examples)
    prompts = dataclasses.replace(batch, learned=batch.prompt, prompt=batch.learned)
    expected = batch_loss(model, batch) + 0.3 * batch_loss(model, prompts)
    torch.testing.assert_close(batch_loss(model, batch, prompt_weight=0.3), expected)


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
    glued = Example(first.ids + second.ids, (False,) * len(first.ids) + second.learned)
    alone = learned_logits(model, [second])
    with pytest.raises(AssertionError):
        torch.testing.assert_close(learned_logits(model, [glued]), alone, rtol=1e-4, atol=1e-6)


def test_bfloat16_gives_nearly_the_same_loss(model: GPT, examples: list[Example]) -> None:
    batch = collate(examples)
    torch.testing.assert_close(
        batch_loss(model, batch, amp=True), batch_loss(model, batch), rtol=1e-2, atol=1e-2
    )


def test_the_mean_loss_weighs_learned_tokens_not_batches(model: GPT, examples: list[Example]) -> None:
    apart = mean_loss(model, [collate([example]) for example in examples], device="cpu")
    together = mean_loss(model, [collate(examples)], device="cpu")
    assert apart == pytest.approx(together, rel=1e-5)


def test_evaluating_restores_training_mode_after_an_exception(model: GPT) -> None:
    model.train()
    seen: list[bool] = []

    def fail() -> None:
        with evaluating(model):
            seen.append(model.training)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert (seen, model.training) == ([False], True)
