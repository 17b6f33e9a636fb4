"""The methods that every architecture has."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from niels_gpt.generation.batched_decoder import BatchedDecoder
from niels_gpt.generation.language_model import LanguageModel
from niels_gpt.model.bdh import BDH, BDHConfig
from niels_gpt.model.checkpoint import CheckpointError
from niels_gpt.model.gpt import GPT
from niels_gpt.model.loading import from_pretrained, load_model
from niels_gpt.model.registry import Model
from tests.generation.conftest import CONFIGS, make_model


def seeded(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


PROMPTS = ["a", "hello there", "the third one is longer than the others"]


def test_a_text_begins_with_its_prompt(model: Model):
    text = model.generate_text("To be", max_new_tokens=8, generator=seeded())
    assert text.startswith("To be")
    assert len(text) > 5


def test_greedy_batches_of_any_lengths_are_what_each_prompt_gives_alone(model: Model):
    together = model.generate_batch(PROMPTS, 12, do_sample=False)
    assert together == [model.generate_text(prompt, 12, do_sample=False) for prompt in PROMPTS]


def test_rows_read_from_a_state_have_the_logits_of_a_whole_forward(model: Model):
    rows = [list(range(3, 20)), [5], list(range(40, 62))]
    cached, plain = (BatchedDecoder(model, rows, new_tokens=2, use_cache=use) for use in (True, False))
    for token in (9, 11):
        assert torch.allclose(cached.logits(), plain.logits(), atol=1e-4)
        for stepper in (cached, plain):
            stepper.append([token] * len(stepper.rows))
            stepper.keep([2, 0] if token == 9 else [0])


def test_a_stream_is_the_text(model: Model):
    pieces = list(model.generate_stream("hello", 20, generator=seeded()))
    assert pieces[0] == "hello"
    assert "".join(pieces) == model.generate_text("hello", 20, generator=seeded())


def test_the_same_seed_is_the_same_text_and_another_is_not(model: Model):
    texts = [model.generate_text("x", 20, generator=seeded(seed)) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_samples_of_one_prompt_stand_together(model: Model):
    ids = torch.tensor([[1, 2], [3, 4]])
    found = model.generate(ids, 5, num_return_sequences=3, generator=seeded())
    assert found.shape == (6, 7)
    assert found[:, :2].tolist() == [[1, 2]] * 3 + [[3, 4]] * 3
    assert len({tuple(row) for row in found[:3].tolist()}) == 3


def test_a_row_does_not_depend_on_the_rows_beside_it(model: Model):
    alone = model.generate(torch.tensor([[1, 2]]), 8, generator=seeded())
    beside = model.generate(torch.tensor([[1, 2], [9, 9]]), 8, generator=seeded())
    assert alone[0].tolist() == beside[0].tolist()


def test_rows_end_at_their_own_end_token_and_are_filled_up(model: Model):
    ids = torch.tensor([[1, 2], [3, 4]])
    free = model.generate(ids, 6, do_sample=False)
    end = int(free[0, 3])
    found = model.generate(ids, 6, do_sample=False, eos_token_id=end, pad_token_id=255)
    first = free[0].tolist().index(end, 2)
    assert found[0].tolist() == (free[0, : first + 1].tolist() + [255] * 9)[: found.shape[1]]


def test_streamed_ids_are_the_generated_ones(model: Model):
    ids = torch.tensor([[1, 2], [3, 4]])
    steps = list(model.generate(ids, 4, generator=seeded(), stream=True))
    assert torch.equal(torch.stack(steps, 1), model.generate(ids, 4, generator=seeded())[:, 2:])


def test_a_stop_sequence_ends_the_text_before_it(model: Model):
    whole = model.generate_text("ab", 30, do_sample=False).encode("utf-8", errors="replace")
    model.tokenizer = None
    stop = model.generate(torch.tensor([list(b"ab")]), 30, do_sample=False)[0, 4:6].tolist()
    found = model.generate_text("ab", 30, do_sample=False, stop_sequences=[bytes(stop)])
    assert len(found) <= len(whole)
    new = bytes(model.generate(torch.tensor([list(b"ab")]), 30, do_sample=False)[0, 2:].tolist())
    assert found == "ab" + new[: new.find(bytes(stop))].decode("utf-8", errors="replace")


def test_of_stop_sequences_in_one_token_the_first_to_end_counts_as_in_a_stream(
    monkeypatch: pytest.MonkeyPatch,
):
    model = LanguageModel(None)
    tokenizer = SimpleNamespace(encode_ids=list, token_bytes=lambda _: b"abcd")
    monkeypatch.setattr(model, "_tokenizer", lambda: tokenizer)
    monkeypatch.setattr(model, "_replies", lambda *_: [[0]])
    monkeypatch.setattr(model, "_steps", lambda *_: iter([[0]]))
    stops = {"stop_sequences": [b"abcd", b"bc"]}
    assert model.generate_text("x", 1, **stops) == "".join(model.generate_stream("x", 1, **stops)) == "xa"


def test_no_new_tokens_gives_the_prompt(model: Model):
    assert model.generate_text("as it is", max_new_tokens=0) == "as it is"
    assert list(model.generate_stream("as it is", max_new_tokens=0)) == ["as it is"]
    assert model.generate(torch.tensor([[1, 2]]), 0).tolist() == [[1, 2]]
    assert model.generate(torch.tensor([[1, 2]]), 0, num_beams=2).tolist() == [[1, 2]]


def test_a_prompt_beyond_the_window_goes_on_from_its_end(model: Model):
    long = "0123456789" * 20
    found = model.generate_text(long, 4, do_sample=False)
    assert found.startswith(long)
    if isinstance(model, GPT):
        assert found[len(long) :] == model.generate_text(long[-64:], 4, do_sample=False)[64:]


def test_a_k_beyond_the_vocabulary_keeps_all(model: Model):
    free = model.generate_text("x", 10, top_k=None, generator=seeded())
    assert model.generate_text("x", 10, top_k=10_000, generator=seeded()) == free


@pytest.mark.parametrize("temperature", [-1.0, float("nan"), float("inf")])
def test_an_impossible_temperature_is_an_error(model: Model, temperature: float):
    with pytest.raises(ValueError, match="temperature"):
        model.generate_text("x", temperature=temperature)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda model: model.generate_text(""), "prompt is empty"),
        (lambda model: model.generate(torch.zeros(1, 0, dtype=torch.long)), "prompt is empty"),
        (lambda model: model.generate(torch.tensor([1, 2])), "shape"),
        (lambda model: model.generate(torch.tensor([[1, 999]])), "the id 999"),
        (lambda model: model.generate_text("x", max_new_tokens=-1), "max_new_tokens is -1"),
        (lambda model: model.generate_text("x", top_k=0), "top_k is 0"),
        (lambda model: model.generate_text("x", num_return_sequences=2), "one text"),
        (lambda model: model.generate_stream("x", num_beams=4), "no beams"),
        (lambda model: model.generate_batch(["x"], do_sample=False, num_return_sequences=2), "equal"),
        (lambda model: model.generate_text("x", stop_sequences=[""]), "stop_sequences"),
    ],
)
def test_what_cannot_be_done_is_an_error_that_says_why(model: Model, call, said: str):
    with pytest.raises(ValueError, match=said):
        call(model)


def test_no_prompts_give_no_texts(model: Model):
    assert model.generate_batch([]) == []


def test_training_mode_is_left_as_it_was(model: Model):
    model.train()
    texts = [model.generate_text("x", 8, do_sample=False) for _ in range(2)]
    assert texts[0] == texts[1]  # no dropout meanwhile
    assert model.training


def test_a_saved_model_is_the_same_model(model: Model, tmp_path: Path):
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, device="cpu")
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    assert loaded.generate_batch(PROMPTS, 8, do_sample=False) == model.generate_batch(
        PROMPTS, 8, do_sample=False
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_a_learned_vocabulary_travels_along(tmp_path: Path, bpe):
    config = BDHConfig(
        n_layer=1, n_embd=12, n_head=2, mlp_internal_dim_multiplier=4, vocab_size=bpe.vocab_size
    )
    model = make_model(config.model_config)
    model.tokenizer = bpe
    text = model.generate_text("hello there", 8, do_sample=False)
    model.save_pretrained(tmp_path)
    loaded = from_pretrained(tmp_path, device="cpu")
    assert loaded.generate_text("hello there", 8, do_sample=False) == text
    assert load_model(tmp_path).tokenizer.to_json() == bpe.to_json()


def test_a_model_without_its_vocabulary_says_what_is_missing():
    model = make_model(CONFIGS["gpt"].__class__(V=300, T=16, C=8, L=1, H=1, d_ff=8))
    with pytest.raises(ValueError, match=r"set model\.tokenizer"):
        model.generate_text("x")


def test_a_directory_of_the_reference_loads(tmp_path: Path):
    config = BDHConfig(n_layer=2, n_embd=12, n_head=2, mlp_internal_dim_multiplier=4, vocab_size=256)
    model = make_model(config.model_config)
    model.save_pretrained(tmp_path)
    theirs = {
        "n_layer": 2, "n_embd": 12, "dropout": 0.1, "n_head": 2, "mlp_internal_dim_multiplier": 4,
        "vocab_size": 256,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(theirs))
    loaded = BDH.from_pretrained(tmp_path, device="cpu")
    assert loaded.generate_text("x", 9, do_sample=False) == model.generate_text("x", 9, do_sample=False)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: (path / "config.json").unlink(), r"has no config\.json"),
        (lambda path: (path / "model.safetensors").write_bytes(b"no"), "damaged"),
        (lambda path: (path / "config.json").write_text("{}"), "model_type '' is not supported"),
        (lambda path: (path / "config.json").write_text("["), "not JSON"),
    ],
)
def test_a_damaged_directory_is_an_error_of_one_line(tmp_path: Path, spoil, said: str):
    make_model(CONFIGS["bdh"]).save_pretrained(tmp_path)
    spoil(tmp_path)
    with pytest.raises(CheckpointError, match=said):
        BDH.from_pretrained(tmp_path)


def test_another_architecture_is_an_error(directory: Path):
    with pytest.raises(CheckpointError, match="holds a bdh model, expected GPT"):
        GPT.from_pretrained(directory, device="cpu")
