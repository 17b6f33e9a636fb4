from __future__ import annotations

import itertools

import numpy as np
import torch

from niels_gpt.text.bpe import train_bpe
from niels_gpt.text.chat_template import template_for
from niels_gpt.text.tokenizer import ByteTokenizer, Tokenizer
from niels_gpt.train.batch import Batch
from niels_gpt.train.dialogue_data import Example, ExampleData, collate, encode_dialogue, fill
from niels_gpt.train.dialogues import Dialogue


def made(*lengths: int) -> list[Example]:
    return [Example(np.arange(n, dtype=np.int32), np.arange(n) > 0) for n in lengths]


def learned_texts(batch: Batch, tokenizer: Tokenizer) -> list[str]:
    rows = zip(batch.targets, batch.learned, strict=True)
    return [tokenizer.decode(targets[learned]) for targets, learned in rows]


def test_exactly_the_assistant_tokens_are_learned(dialogues: list[Dialogue]) -> None:
    tokenizer = train_bpe([message["content"] for message in dialogues[1]], 270)
    example = encode_dialogue(dialogues[1], template_for(tokenizer), T=128)
    assert example is not None
    batch = collate([example])
    assert learned_texts(batch, tokenizer) == ["it turns pairs.for order."]
    eot = tokenizer.special_token_ids()["eot"]
    assert (batch.targets[batch.learned] == eot).sum() == 2


def test_padding_is_never_learned(examples: list[Example]) -> None:
    batch = collate(examples)
    assert learned_texts(batch, ByteTokenizer()) == [
        "a man.\nuser: ",
        "it turns pairs.\nuser: for order.\nuser: ",
    ]


def test_targets_are_the_inputs_one_token_later(examples: list[Example]) -> None:
    batch = collate(examples[1:])
    assert torch.equal(batch.inputs[:, 1:], batch.targets[:, :-1])


def test_a_dialogue_is_cut_to_the_context(dialogues: list[Dialogue]) -> None:
    example = encode_dialogue(dialogues[1], template_for(ByteTokenizer()), T=60)
    assert example is not None
    assert collate([example]).inputs.shape[1] <= 60


def test_a_dialogue_whose_reply_lies_beyond_the_context_is_left_out(dialogues: list[Dialogue]) -> None:
    assert encode_dialogue(dialogues[0], template_for(ByteTokenizer()), T=20) is None


def test_what_follows_the_last_reply_is_left_out() -> None:
    dialogue = ({"role": "assistant", "content": "hi"}, {"role": "user", "content": "and a long question"})
    example = encode_dialogue(dialogue, template_for(ByteTokenizer()), T=128)
    assert example is not None
    assert bytes(example.ids.tolist()) == b"assistant: hi\nuser: "


def test_groups_stay_within_their_places_padding_included() -> None:
    groups = fill(made(5, 9, 9, 9, 17, 33), places=24)
    assert [len(group) for group in groups] == [3, 1, 1, 1]
    assert sum(map(len, groups)) == 6


def test_padded_rows_have_few_widths_and_stay_within_their_places() -> None:
    data = ExampleData(made(*range(2, 60)), places=128, seed=1, pad_to=16)
    shapes = [batch.inputs.shape for batch in itertools.islice(data.from_position(0), len(data.epoch(0)))]
    assert {width % 16 for _, width in shapes} == {0}
    assert all(rows * width <= 128 for rows, width in shapes)
    assert collate(made(9), pad_to=16).tokens == 8


def test_an_epoch_holds_every_example_once() -> None:
    examples = made(*range(2, 40))
    epoch = ExampleData(examples, places=64, seed=1).epoch(3)
    assert sorted(len(e.ids) for e in itertools.chain(*epoch)) == list(range(2, 40))


def test_the_order_starts_at_any_position_as_if_it_had_run_there() -> None:
    order = ExampleData(made(*range(2, 40)), places=64, seed=1)
    per_epoch = len(order.epoch(0))
    for position in (0, 3, per_epoch, per_epoch + 2):
        from_start = next(itertools.islice(order.from_position(0), position, None))
        assert torch.equal(from_start.inputs, next(order.from_position(position)).inputs)


def test_epochs_have_orders_of_their_own() -> None:
    order = ExampleData(made(*range(2, 40)), places=64, seed=1)
    assert order.epoch(0) != order.epoch(1)
