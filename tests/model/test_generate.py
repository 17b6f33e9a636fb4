"""The generation functions: what they return, when they stop, and that a cache changes nothing."""

from __future__ import annotations

import math

import pytest
import torch

from niels_gpt.generation.reference import (
    generate_ids,
    generate_ids_cached,
    generate_ids_greedy_cached,
    generate_ids_greedy_full,
    generate_text,
    sample_next_token,
    top_k_filter,
)
from niels_gpt.model.config import ModelConfig
from niels_gpt.model.kv_cache import allocate_kv_cache, decode_step, prefill
from niels_gpt.rng import make_generator

BY_TOKEN = (generate_ids_cached, generate_ids_greedy_cached, generate_ids_greedy_full)
LOGITS = torch.tensor([0.1, 2.0, -1.0, 1.9, 0.0])


class Recites(torch.nn.Module):
    """Emits a fixed text over and over, whatever it reads; remembers what it was given."""

    def __init__(self, text: bytes) -> None:
        super().__init__()
        self.text, self.position = text, 0
        self.contexts: list[list[int]] = []
        self.modes: list[bool] = []

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        self.contexts.append(ids[0].tolist())
        self.modes.append(self.training)
        logits = torch.zeros(1, ids.shape[1], 256)
        logits[0, -1, self.text[self.position % len(self.text)]] = 1e6
        self.position += 1
        return logits


def prompt_of(text: str) -> torch.Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.long)


def recite(
    text: bytes, *, prompt: str = "p", n: int = 50, stops: list[bytes] | None = None, T: int = 64
) -> bytes:
    ids = generate_ids(
        Recites(text),
        prompt_of(prompt),
        max_new_tokens=n,
        T=64,
        stop_sequences=stops,
        device="cpu",
        generator=make_generator(0),
    )
    assert ids.dtype == torch.long
    assert ids.tolist()[: len(prompt)] == list(prompt.encode())
    return bytes(ids.tolist()[len(prompt) :])


def test_temperature_zero_is_argmax():
    assert sample_next_token(LOGITS, temperature=0, top_k=None, generator=None) == 1


def test_argmax_takes_the_lowest_id_among_equals():
    assert sample_next_token(torch.tensor([0.0, 1.0, 1.0]), temperature=0, top_k=None, generator=None) == 1


def test_top_k_of_one_is_argmax_at_any_temperature():
    generator = make_generator(0)
    assert {sample_next_token(LOGITS, temperature=5.0, top_k=1, generator=generator) for _ in range(30)} == {
        1
    }


def test_equal_generators_sample_equal_tokens():
    one, two = make_generator(9), make_generator(9)
    for _ in range(40):
        assert sample_next_token(LOGITS, temperature=1.0, top_k=None, generator=one) == sample_next_token(
            LOGITS, temperature=1.0, top_k=None, generator=two
        )


def test_sampling_is_multinomial_over_the_scaled_and_filtered_softmax():
    one, two = make_generator(3), make_generator(3)
    for _ in range(30):
        probs = torch.softmax(top_k_filter(LOGITS / 0.7, 3), dim=-1)
        expected = int(torch.multinomial(probs, 1, generator=two))
        assert sample_next_token(LOGITS, temperature=0.7, top_k=3, generator=one) == expected


@pytest.mark.parametrize(
    ("logits", "settings", "message"),
    [
        ([0.0, math.nan], {"temperature": 0.0, "top_k": None}, "nan at id 1"),
        ([0.0, math.inf], {"temperature": 1.0, "top_k": None}, "inf at id 1"),
        ([0.0, 1.0], {"temperature": -1.0, "top_k": None}, "temperature"),
        ([0.0, 1.0], {"temperature": 1.0, "top_k": 3}, "top_k is 3"),
        ([0.0, 1.0], {"temperature": 1.0, "top_k": 0}, "top_k is 0"),
        ([0.0, 1e30], {"temperature": 1e-30, "top_k": None}, "too small"),
    ],
)
def test_what_cannot_be_sampled_is_an_error_that_says_why(logits, settings, message):
    with pytest.raises(ValueError, match=message):
        sample_next_token(torch.tensor(logits), **settings, generator=None)


def test_a_stop_sequence_ends_the_reply_and_is_cut_off():
    assert recite(b"hello\nuser: and more", stops=[b"\nuser: "]) == b"hello"


def test_generate_text_shows_nothing_of_the_stop_sequence():
    text = generate_text(
        Recites(b"hello\nuser: "),
        "assistant: ",
        cfg=ModelConfig(),
        max_new_tokens=100,
        stop_sequences=[b"\nuser: "],
        device="cpu",
        generator=make_generator(0),
    )
    assert text == "assistant: hello"


def test_without_its_stop_sequence_the_same_model_runs_on():
    assert recite(b"hello\nuser: ", n=20) == b"hello\nuser: hello\nus"
    assert recite(b"hello\nuser: ", n=20, stops=[b"\nsystem: "]) == b"hello\nuser: hello\nus"


def test_any_of_several_stop_sequences_ends_the_reply():
    stops = [b"\nuser: ", b"\nsystem: "]
    assert recite(b"a\nsystem: b\nuser: ", stops=stops) == b"a"


def test_of_stop_sequences_that_end_together_the_earliest_start_counts():
    assert recite(b"xabc", stops=[b"c", b"abc", b"bc"]) == b"x"


def test_a_stop_sequence_that_begins_in_the_prompt_does_not_count():
    assert recite(b"ser: hi\nuser: ", prompt="x\nu", stops=[b"\nuser: "]) == b"ser: hi"


def test_a_stop_sequence_inside_the_prompt_does_not_count():
    assert recite(b"ab", prompt="x\nuser: ", n=2, stops=[b"\nuser: "]) == b"ab"


def test_a_reply_that_opens_with_the_stop_sequence_is_empty():
    assert recite(b"\nuser: ", stops=[b"\nuser: "]) == b""


def test_an_interrupted_stop_sequence_is_text():
    assert recite(b"\nuse\nuser: ", stops=[b"\nuser: "]) == b"\nuse"


def test_an_empty_stop_sequence_is_an_error():
    with pytest.raises(ValueError, match="no empty sequence"):
        recite(b"a", stops=[b""])


def test_stop_sequences_need_byte_tokens(new_model, some_ids):
    model = new_model(ModelConfig(V=400, T=32, C=8, H=1, L=1, d_ff=8))
    model.tok_emb.weight.data[:256] = 0.0
    with pytest.raises(ValueError, match="is not a byte"):
        generate_ids(
            model, some_ids(3), max_new_tokens=20, T=32, stop_sequences=[b"x"], device="cpu", temperature=0.0
        )


def test_the_model_reads_at_most_the_last_of_its_window():
    model = Recites(b"abcdef")
    generate_ids(model, prompt_of("xyz"), max_new_tokens=4, T=4, device="cpu", temperature=0.0)
    assert [bytes(context) for context in model.contexts] == [b"xyz", b"xyza", b"yzab", b"zabc"]


def test_a_reply_may_grow_beyond_the_context_window(gelu_model, some_ids):
    ids = generate_ids(gelu_model, some_ids(30), max_new_tokens=10, T=32, device="cpu")
    assert len(ids) == 40


def test_generation_runs_in_evaluation_mode_and_gives_the_mode_back():
    model = Recites(b"a").train()
    generate_ids(model, prompt_of("x"), max_new_tokens=2, T=4, device="cpu")
    assert model.modes == [False, False]
    assert model.training


def test_no_new_tokens_is_the_prompt(gelu_model):
    assert generate_ids(gelu_model, prompt_of("!"), max_new_tokens=0, T=4, device="cpu").tolist() == [33]
    cached = generate_ids_cached(gelu_model, [33], max_new_tokens=0, eot_token_id=0)
    assert cached == {"ids": [33], "steps": []}


@pytest.mark.parametrize("changed", [{"max_new_tokens": -1}, {"T": 0}, {"temperature": -1}, {"top_k": 0}])
def test_generate_ids_refuses_settings_out_of_range(gelu_model, changed):
    settings = {"max_new_tokens": 1, "T": 4, "device": "cpu"} | changed
    with pytest.raises(ValueError, match=next(iter(changed))):
        generate_ids(gelu_model, prompt_of("!"), **settings)


def test_generate_ids_refuses_an_empty_prompt(gelu_model):
    with pytest.raises(ValueError, match="at least one id"):
        generate_ids(gelu_model, prompt_of(""), max_new_tokens=1, T=4, device="cpu")


def test_cached_sampling_gives_the_ids_of_uncached_sampling(model, some_ids):
    for seed in range(6):
        prompt = some_ids(8, seed=seed)
        uncached = generate_ids(
            model, prompt, max_new_tokens=24, T=32, device="cpu", generator=make_generator(seed)
        )
        cached = generate_ids_cached(
            model, prompt.tolist(), max_new_tokens=24, eot_token_id=None, generator=make_generator(seed)
        )
        assert cached["ids"] == uncached.tolist()


def test_feeding_the_prompts_last_token_twice_would_change_the_ids(gelu_model, some_ids):
    """The control: the agreement above sees a first token that was taken from the wrong logits."""
    prompt = some_ids(1, 8)
    cfg = gelu_model.cfg
    cache = allocate_kv_cache(L=cfg.L, B=1, H=cfg.H, T_max=32, D=cfg.D, device="cpu", dtype=torch.float32)
    prefill(gelu_model, prompt, cache)
    ids, last = prompt[0].tolist(), prompt[:, -1:]
    for _ in range(24):
        logits, cache, _ = decode_step(gelu_model, last, cache)
        last = logits[:, -1].argmax(-1, keepdim=True)
        ids.append(int(last))
        if len(ids) == 31:
            break
    right = generate_ids_greedy_cached(gelu_model, prompt[0].tolist(), max_new_tokens=23, eot_token_id=None)
    assert ids[8:] != right[8:]


def test_greedy_with_and_without_cache_agree(model, some_ids):
    for seed in range(6):
        prompt = some_ids(5, seed=seed).tolist()
        settings = {"max_new_tokens": 27, "eot_token_id": 7}
        cached = generate_ids_greedy_cached(model, prompt, **settings)
        assert cached == generate_ids_greedy_full(model, prompt, **settings)


def test_the_end_token_ends_the_reply_and_is_part_of_it(gelu_model, some_ids):
    prompt = some_ids(5).tolist()
    free = generate_ids_greedy_cached(gelu_model, prompt, max_new_tokens=20, eot_token_id=None)
    eot = free[8]
    stop = free.index(eot, 5) + 1
    settings = {"max_new_tokens": 20, "eot_token_id": eot}
    assert generate_ids_greedy_cached(gelu_model, prompt, **settings) == free[:stop]
    assert generate_ids_greedy_full(gelu_model, prompt, **settings) == free[:stop]


def test_an_end_token_in_the_prompt_ends_nothing(gelu_model):
    assert len(generate_ids_greedy_cached(gelu_model, [7, 7, 7], max_new_tokens=1, eot_token_id=7)) == 4


def test_steps_list_each_new_token(gelu_model, some_ids):
    prompt = some_ids(5).tolist()
    result = generate_ids_cached(
        gelu_model, prompt, max_new_tokens=6, eot_token_id=None, generator=make_generator(1)
    )
    assert [step["token_id"] for step in result["steps"]] == result["ids"][5:]
    assert all(set(step) == {"token_id"} for step in result["steps"])


def test_traced_steps_hold_the_attention_their_token_was_chosen_at(gelu_model, some_ids):
    prompt = some_ids(5).tolist()
    settings = {"max_new_tokens": 4, "eot_token_id": None, "temperature": 0.0}
    traced = generate_ids_cached(gelu_model, prompt, **settings, trace_layer=2)
    assert traced["ids"] == generate_ids_cached(gelu_model, prompt, **settings)["ids"]
    for i, step in enumerate(traced["steps"]):
        context = torch.tensor([traced["ids"][: 5 + i]])
        _, trace = gelu_model.forward_with_attn_trace(context, trace_layer=2)
        found = torch.tensor(step["attn_row"])
        torch.testing.assert_close(found, trace["attn_row"][0], atol=1e-5, rtol=1e-4)


def test_banned_tokens_never_appear(gelu_model, some_ids):
    banned = set(range(61)) - {4, 9}
    result = generate_ids_cached(
        gelu_model, some_ids(5).tolist(), max_new_tokens=20, eot_token_id=None, banned_token_ids=banned
    )
    assert set(result["ids"][5:]) <= {4, 9}


def test_a_strong_repetition_penalty_repeats_nothing(gelu_model):
    settings = {"max_new_tokens": 25, "eot_token_id": None, "temperature": 0.0}
    free = generate_ids_cached(gelu_model, [1], **settings)["ids"]
    penalised = generate_ids_cached(gelu_model, [1], **settings, repetition_penalty=1e6)["ids"]
    assert len(set(free)) < 26
    assert len(set(penalised)) == 26


def test_a_tiny_nucleus_is_greedy(gelu_model, some_ids):
    prompt = some_ids(5).tolist()
    nucleus = generate_ids_cached(gelu_model, prompt, max_new_tokens=9, eot_token_id=None, top_p=1e-6)
    assert nucleus["ids"] == generate_ids_greedy_cached(
        gelu_model, prompt, max_new_tokens=9, eot_token_id=None
    )


@pytest.mark.parametrize(
    "function", [generate_ids_cached, generate_ids_greedy_cached, generate_ids_greedy_full]
)
@pytest.mark.parametrize(
    ("prompt", "n", "message"),
    [
        ([1] * 10, 23, "10 and 23 new tokens do not fit into T=32"),
        ([], 1, "prompt is empty"),
        ([61], 1, "expected 0 to 60"),
        ([-1], 1, "expected 0 to 60"),
        ([1], -1, "max_new_tokens is -1"),
    ],
)
def test_what_does_not_fit_the_model_is_an_error(gelu_model, function, prompt, n, message):
    with pytest.raises(ValueError, match=message):
        function(gelu_model, prompt, max_new_tokens=n, eot_token_id=0)


@pytest.mark.parametrize(
    "function", [generate_ids_cached, generate_ids_greedy_cached, generate_ids_greedy_full]
)
def test_prompt_and_reply_may_fill_the_context_window(gelu_model, function):
    function(gelu_model, [1] * 10, max_new_tokens=22, eot_token_id=None)


@pytest.mark.parametrize(
    "wrong", [{"top_k": 62}, {"top_p": 0.0}, {"repetition_penalty": -1.0}, {"trace_layer": 3}]
)
def test_cached_generation_refuses_settings_out_of_range(gelu_model, wrong):
    message = "layer 3" if "trace_layer" in wrong else next(iter(wrong))
    with pytest.raises(ValueError, match=message):
        generate_ids_cached(gelu_model, [1], max_new_tokens=1, eot_token_id=None, **wrong)


def test_a_diverged_model_is_an_error_and_never_a_token(gelu_model):
    gelu_model.ln_f.weight.data.fill_(math.nan)
    with pytest.raises(ValueError, match="weights are damaged or diverged"):
        generate_ids_cached(gelu_model, [1], max_new_tokens=1, eot_token_id=None)
