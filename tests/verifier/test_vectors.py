"""The vectors of the specification are what the verifier computes, and what the program computes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from niels_gpt.conversation.context import prompt_hash as programs_prompt_hash
from niels_gpt.decoding import sequence as program
from niels_gpt.kernels.rope import rotary_tables as programs_tables
from niels_gpt.model.form import Rope
from niels_gpt.model.int8 import quantised
from niels_gpt.paths import REPO_ROOT
from niels_gpt.rng import UniformGenerator
from niels_gpt.rng import reply_seed as programs_reply_seed
from verifier import float32
from verifier.float32 import F32, fma, lane_sum
from verifier.model import quantise, rotary_tables
from verifier.record import prompt_hash
from verifier.sampler import draw, logits_hash, reply_seed, row_multipliers, row_sum, uniforms

VECTORS: dict[str, Any] = json.loads((REPO_ROOT / "docs/spec/vectors.json").read_text("utf-8"))


def floats(words: list[str]) -> np.ndarray:
    return np.array([int(word, 16) for word in words], np.uint32).view(F32)


def words(numbers: Any) -> list[str]:
    return [f"{word:08x}" for word in np.atleast_1d(np.asarray(numbers, F32)).view(np.uint32)]


def test_fused_steps():
    for vector in VECTORS["fma"]:
        x, y, z = (floats([vector[name]]) for name in "xyz")
        assert words(fma(x, y, z)) == [vector["result"]]


def test_functions_and_sums():
    for name in ("exp", "erf", "gelu", "silu"):
        vector = VECTORS[name]
        assert words(getattr(float32, name)(floats(vector["x"]))) == vector["result"]
    assert words(lane_sum(floats(VECTORS["lane_sum"]["terms"]))) == [VECTORS["lane_sum"]["result"]]


def test_rotary_tables():
    vector = VECTORS["rotary"]
    T, D, theta = vector["T"], vector["D"], vector["theta"]
    found = rotary_tables(T, D, theta)
    assert [[words(row) for row in table] for table in found] == [vector["cosine"], vector["sine"]]
    cosine, sine = programs_tables(T, D, Rope(theta), D)
    assert np.array_equal(cosine[:, ::2], found[0])
    assert np.array_equal(sine[:, 1::2], found[1])


def test_integers():
    vector = VECTORS["int8"]
    weight = np.stack([floats(row) for row in vector["weight"]])
    for integers, scales in (quantise(weight), quantised(weight)):
        assert integers.tolist() == vector["integers"]
        assert words(scales) == vector["scales"]


def test_seeds_and_numbers():
    vector = VECTORS["reply_seed"]
    source = vector["session_seed"], vector["turn"], vector["attempt"]
    assert reply_seed(*source) == programs_reply_seed(*source) == vector["result"]
    vector = VECTORS["uniforms"]
    count = len(vector["result"])
    for numbers in (uniforms(vector["seed"], count), UniformGenerator(vector["seed"]).uniforms(count)):
        assert [float(number).hex() for number in numbers] == vector["result"]


def test_hashes():
    expected = VECTORS["row_multipliers"]
    assert row_multipliers(3).tolist() == program.row_multipliers(3).tolist() == expected
    rows = np.stack([floats(row) for row in VECTORS["logits_hash"]["rows"]])
    sums = [row_sum(row, row_multipliers(3)) for row in rows]
    assert sums == program.row_sums(rows).tolist()
    assert logits_hash(sums) == program.logits_hash(sums) == VECTORS["logits_hash"]["result"]
    vector = VECTORS["prompt_hash"]
    assert prompt_hash(vector["ids"]) == programs_prompt_hash(vector["ids"]) == vector["result"]


def test_a_draw():
    vector = VECTORS["draw"]
    assert draw(floats(vector["logits"]), vector["settings"], [], [], vector["uniform"]) == vector["result"]
