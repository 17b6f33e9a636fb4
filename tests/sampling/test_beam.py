"""Beam search against the exhaustive search that it stands for, on a tiny vocabulary."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from niels_gpt.generation.beam import beam_search
from niels_gpt.generation.options import GenerationOptions, make_options
from niels_gpt.model.config import ModelConfig
from niels_gpt.model.gpt import GPT

V, M, END = 5, 4, 0


@pytest.fixture(scope="module")
def model() -> GPT:
    torch.manual_seed(3)
    model = GPT(ModelConfig(V=V, T=16, C=16, L=1, H=2, d_ff=32)).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.6)
    return model


def every_continuation(model: GPT, prompt: list[int], length_penalty: float) -> list[tuple[float, tuple]]:
    """All that end with END or have M tokens, with their scores, the best first."""
    found = []
    for length in range(1, M + 1):
        for new in itertools.product(range(V), repeat=length):
            if END in new[:-1] or (length < M and new[-1] != END):
                continue
            with torch.no_grad():
                log_probs = model(torch.tensor([[*prompt, *new]]))[0].double().log_softmax(-1)
            total = sum(float(log_probs[len(prompt) - 1 + i, token]) for i, token in enumerate(new))
            found.append((total / length**length_penalty, new))
    return sorted(found, reverse=True)


def options(**changes) -> GenerationOptions:
    return make_options(max_new_tokens=M, eos_token_id=END, **changes)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0, -1.0])
def test_beams_as_many_as_there_are_continuations_find_the_best_ones(model: GPT, length_penalty: float):
    prompts = [[1, 2], [3], [4, 4, 1]]
    found = beam_search(
        model, prompts, options(num_beams=V**M, num_return_sequences=6, length_penalty=length_penalty)
    )
    for prompt, beams in zip(prompts, found, strict=True):
        expected = every_continuation(model, prompt, length_penalty)[:6]
        assert [beam.new_ids for beam in beams] == [new for _, new in expected]
        assert [beam.score for beam in beams] == pytest.approx([score for score, _ in expected], abs=1e-5)


@pytest.mark.parametrize("num_beams", [4, 6, 8])
def test_the_usual_sizes_are_no_worse_than_greedy_and_no_better_than_the_best(model: GPT, num_beams: int):
    best = every_continuation(model, [1, 2], 0.0)[0][0]
    greedy = model.generate(torch.tensor([[1, 2]]), M, do_sample=False, eos_token_id=END)[0, 2:].tolist()
    scores = {new: score for score, new in every_continuation(model, [1, 2], 0.0)}
    found = beam_search(model, [[1, 2]], options(num_beams=num_beams, length_penalty=0.0))[0][0]
    ends = greedy.index(END) + 1 if END in greedy else M
    assert scores[tuple(greedy[:ends])] - 1e-5 <= found.score <= best + 1e-5


def test_one_prompt_beside_others_finds_what_it_finds_alone(model: GPT):
    wanted = options(num_beams=4, num_return_sequences=2)
    together = beam_search(model, [[1, 2], [3], [4, 4, 1]], wanted)
    alone = [beam_search(model, [prompt], wanted)[0] for prompt in ([1, 2], [3], [4, 4, 1])]
    assert [[b.new_ids for b in beams] for beams in together] == [
        [b.new_ids for b in beams] for beams in alone
    ]


def test_banned_ids_are_in_no_beam(model: GPT):
    found = beam_search(
        model, [[1, 2]], options(num_beams=8, num_return_sequences=8, banned_token_ids=(END, 3))
    )
    assert all(not {END, 3} & set(beam.new_ids) for beam in found[0])


def test_more_sequences_than_beams_is_an_error():
    with pytest.raises(ValueError, match="num_return_sequences is 5"):
        options(num_beams=4, num_return_sequences=5)
