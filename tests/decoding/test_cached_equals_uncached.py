"""A small run of the comparison in bench/, and controls that show it can fail."""

from __future__ import annotations

import copy

from bench.cached_equals_uncached import compare

SIZES = {"tokens": 120, "prompt": 6, "reply": 24}


def test_sampling_with_a_cache_gives_the_tokens_of_sampling_without(model):
    found = compare(model, model, **SIZES)
    assert found.tokens >= 120
    assert all(difference.is_near_tie for difference in found.differences)


def test_the_comparison_sees_weights_that_differ_a_little(gelu_model):
    changed = copy.deepcopy(gelu_model)
    changed.tok_emb.weight.data[:, 0] += 0.05
    found = compare(changed, gelu_model, **SIZES)
    assert found.differences
    assert not all(difference.is_near_tie for difference in found.differences)


def test_each_token_of_a_difference_won_on_its_own_path(gelu_model):
    """A margin below zero would mean that the explanation looks at other noise than the sampler did."""
    changed = copy.deepcopy(gelu_model)
    changed.tok_emb.weight.data[:, 0] += 0.05
    for difference in compare(changed, gelu_model, **SIZES).differences:
        assert difference.cached_margin > 0
        assert difference.uncached_margin > 0
