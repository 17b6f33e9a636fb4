"""One planted fault at a time: each is reported as what it is, at the place where it was planted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
import torch

from niels_gpt.cli.exit_codes import STATUS_OF_VERDICT
from niels_gpt.conversation.options import ChatOptions
from niels_gpt.decoding.backend import Backend
from niels_gpt.decoding.kernel_decoder import KernelDecoder, KernelSequence
from niels_gpt.decoding.request import GenerationRequest
from niels_gpt.decoding.sequence import logits_hash
from niels_gpt.kernels import KERNEL_VERSION
from niels_gpt.kernels.gpt_packing import pack_gpt
from niels_gpt.model.fingerprint import fingerprint
from niels_gpt.replay import diagnosis
from niels_gpt.replay.explain import Candidate, ExplainedToken
from niels_gpt.replay.replay import Replay, replay
from niels_gpt.replay.report import turn_lines
from niels_gpt.replay.verdict import Verdict
from niels_gpt.text.bpe import BPETokenizer, train_bpe
from niels_gpt.text.chat_template import TranscriptTemplate
from sessions import open_store
from tests.replay.recordings import integer_model, loaded, record_session, save_model, say

Replayed = Callable[..., Replay]
Damage = Callable[..., None]


def parts(verdict: Verdict, *, deciding: bool = True) -> list[str]:
    return [each.part for each in verdict.differing if each.decides == deciding]


def remarks(verdict: Verdict) -> str:
    return "\n".join(verdict.remarks)


def swapped(change: Callable[[Backend], None]) -> Callable[[ChatOptions], Backend]:
    """Load as ever, then change something behind the fingerprint's back."""

    def load(options: ChatOptions) -> Backend:
        model = loaded(options.checkpoint)
        change(model)
        return model

    return load


def test_a_weight_of_the_checkpoint(replayed: Replayed, tmp_path: Path) -> None:
    model = integer_model(T=320)
    with torch.no_grad():
        model.tok_emb.weight[3, 5] += 2.0**-20
    found = replayed(path=save_model(tmp_path / "other.pt", model))
    assert [parts(verdict) for verdict in found.verdicts] == [["weights"]] * 6
    assert {verdict.kind for verdict in found.verdicts} == {"unverifiable"}
    assert STATUS_OF_VERDICT[found.kind] == 4
    assert "other.pt' has other weights" in found.verdicts[0].why


def test_a_weight_in_memory_that_the_fingerprint_cannot_see(replayed: Replayed) -> None:
    def flip(model: Backend) -> None:
        network = integer_model(T=320)
        with torch.no_grad():
            network.lm_head.weight[65, 0] += 1.0
        model.decoder = KernelDecoder(pack_gpt(network), model.tokenizer)

    found = replayed(load=swapped(flip))
    first = found.verdicts[0]
    assert {verdict.kind for verdict in found.verdicts} <= {"diverged", "tokens_only"}
    assert STATUS_OF_VERDICT[found.kind] == 3
    assert first.differing == ()
    assert first.divergence is not None
    assert first.divergence.place == "token"


def test_a_tokenizer_entry(tmp_path: Path) -> None:
    tokenizer = train_bpe(["who is niels? niels made a cache. " * 9], 280)
    network = integer_model(V=tokenizer.vocab_size, T=320)
    checkpoint = save_model(tmp_path / "one.pt", network, tokenizer=tokenizer)
    anyio.run(record_session, tmp_path / "s.db", loaded(checkpoint), "talk", [lambda c: say(c, "niels?")])
    stored = json.loads(tokenizer.to_json() or "")
    vocabulary = stored["model"]["vocab"]
    vocabulary["!"], vocabulary["?"] = vocabulary["?"], vocabulary["!"]
    other = BPETokenizer.from_json(json.dumps(stored))
    save_model(tmp_path / "one.pt", network, tokenizer=other)
    with open_store(tmp_path / "s.db") as store:
        options = ChatOptions(checkpoint=checkpoint, checkpoint_given=True)
        found = anyio.run(lambda: replay(store, "talk", options, swapped(lambda _: None)))
    assert (found.verdicts[0].kind, parts(found.verdicts[0])) == ("unverifiable", ["tokenizer"])


class LoudTemplate(TranscriptTemplate):
    """The transcript with one string changed."""

    def prompt_ids(self, messages: Sequence[Any]) -> list[int]:
        """End with another tag."""
        return [*super().prompt_ids(messages)[:-2], *b"! "]


@pytest.mark.parametrize("version", [1, 2])
def test_a_template_string(replayed: Replayed, version: int) -> None:
    """With its version raised, as it should be, and without."""

    def change(model: Backend) -> None:
        model.template = LoudTemplate(model.tokenizer)
        model.template.version = version
        network = integer_model(T=320)
        now = fingerprint(network, network.cfg, model.tokenizer, model.template)
        model.checkpoint = {**model.checkpoint, "parts": asdict(now)}

    first = replayed(load=swapped(change)).verdicts[0]
    assert first.divergence is not None
    assert first.divergence.place == "prompt"
    assert parts(first) == (["template"] if version == 2 else [])
    expected = "differs because of: template" if version == 2 else "changed without a new version"
    assert expected in remarks(first)


def test_a_seed(replayed: Replayed, damage: Damage, store_path: Path) -> None:
    generation = replayed().questions[1].recorded.generation
    damage("UPDATE generation SET seed = seed + 1 WHERE id = ?", generation.id)
    found = replayed()
    second = found.verdicts[1]
    assert [verdict.kind for verdict in found.verdicts] == ["exact", "diverged", *["exact"] * 4]
    assert second.divergence is not None
    assert (second.divergence.place, second.divergence.index) == ("token", 0)
    assert f"the stored seed is {generation.seed + 1}" in remarks(second)
    assert f"every token fits the seed {generation.seed}: the stored seed was changed" in remarks(second)
    assert [fault.generation_id for fault in found.faults] == [generation.id]
    changed = f"changed after it was recorded: generation {generation.id}:"
    assert [changed in remarks(verdict) for verdict in found.verdicts] == [False, True, *[False] * 4]


def test_one_stored_token(replayed: Replayed, damage: Damage) -> None:
    reply = replayed().questions[1].recorded.reply
    ids = list(reply.token_ids or ())
    ids[9] ^= 1
    damage("UPDATE message SET token_ids = ? WHERE id = ?", json.dumps(ids), reply.id)
    found = replayed()
    second = found.verdicts[1]
    assert second.divergence is not None
    assert (second.divergence.place, second.divergence.index) == ("token", 9)
    assert second.divergence.expected.token_ids[0] == ids[9]
    assert second.divergence.got.token_ids[0] == ids[9] ^ 1
    assert (second.divergence.margin or 0.0) > 0.0
    assert "this one was changed after it was drawn" in remarks(second)
    assert [fault.message_id for fault in found.faults] == [reply.id]
    assert STATUS_OF_VERDICT[found.kind] == 3


def test_a_stored_reply_that_ends_too_early_has_no_margin_where_it_parts(
    replayed: Replayed, damage: Damage
) -> None:
    reply = replayed().questions[1].recorded.reply
    ids = list(reply.token_ids or ())[:-1]
    damage("UPDATE message SET token_ids = ? WHERE id = ?", json.dumps(ids), reply.id)
    divergence = replayed().verdicts[1].divergence
    assert divergence is not None
    assert (divergence.place, divergence.index, divergence.margin) == ("token", len(ids), None)


def test_a_reply_that_was_stopped_before_its_first_token_is_exact(replayed: Replayed, damage: Damage) -> None:
    turn = replayed().questions[-1].recorded
    receipt = json.dumps({"logits_hash": logits_hash([]), "smallest_margin": None})
    damage(
        "UPDATE message SET content = '', token_ids = '[]', status = 'cancelled' WHERE id = ?", turn.reply.id
    )
    damage(
        "UPDATE generation SET status = 'cancelled', finish_reason = 'cancelled', receipt = ? WHERE id = ?",
        receipt,
        turn.generation.id,
    )
    assert [verdict.kind for verdict in replayed().verdicts] == ["exact"] * 6


@pytest.mark.parametrize(
    ("draw", "distance"), [(None, None), (0.25, 0.5), (0.75, 0.0), (0.8, 0.0), (0.875, 0.0), (1.0, 0.125)]
)
def test_how_far_a_draw_was_from_giving_a_token(draw: float | None, distance: float | None) -> None:
    chosen = Candidate(token_id=1, text="a", before=0.125, after=0.125)
    step = ExplainedToken(
        index=0, chosen=chosen, candidates=(chosen,), forced=False, draw=draw, low=0.75, high=0.875
    )
    assert diagnosis._distance(step) == distance


def test_one_letter_of_a_stored_reply(replayed: Replayed, damage: Damage) -> None:
    reply = replayed().questions[0].recorded.reply
    damage(
        "UPDATE message SET content = ? WHERE id = ?", reply.content[:4] + "~" + reply.content[5:], reply.id
    )
    found = replayed()
    first, second = found.verdicts[:2]
    assert first.divergence is not None
    assert (first.divergence.place, first.divergence.index) == ("text", 4)
    assert second.divergence is not None
    assert second.divergence.place == "prompt"
    assert [fault.message_id for fault in found.faults] == [reply.id]


def test_one_message(replayed: Replayed, damage: Damage) -> None:
    user = replayed().questions[1].recorded.user
    damage("UPDATE message SET content = 'who is Niels?' WHERE id = ?", user.id)
    found = replayed()
    assert [verdict.kind for verdict in found.verdicts[:2]] == ["exact", "diverged"]
    second = found.verdicts[1]
    assert second.divergence is not None
    assert second.divergence.place == "prompt"
    assert f"changed after it was recorded: message {user.id} (user, position 3)" in remarks(second)
    assert [fault.message_id for fault in found.faults] == [user.id]


class SkippingDecoder(KernelDecoder):
    """Its generators are some draws ahead."""

    skipped = 1

    def admit(self, request: GenerationRequest) -> KernelSequence:
        """Waste the first draws."""
        sequence = super().admit(request)
        sequence.reply.uniforms(self.skipped)
        return sequence


def skip(model: Backend, count: int = 1) -> None:
    model.decoder = SkippingDecoder(pack_gpt(integer_model(T=320)), model.tokenizer)
    model.decoder.skipped = count


def test_an_off_by_one_of_the_generator_that_replays(replayed: Replayed) -> None:
    first = replayed(load=swapped(skip)).verdicts[0]
    assert first.divergence is not None
    assert first.divergence.place == "token"
    assert "every recorded token fits its seed: what made the reply again is at fault" in remarks(first)


@pytest.mark.parametrize("count", [1, 2])
def test_an_off_by_one_or_two_of_the_generator_that_recorded(
    checkpoint: Path, tmp_path: Path, count: int
) -> None:
    faulty = swapped(partial(skip, count=count))(ChatOptions(checkpoint=checkpoint))
    anyio.run(record_session, tmp_path / "s.db", faulty, "talk", [lambda c: say(c, "niels?")])
    with open_store(tmp_path / "s.db") as store:
        options = ChatOptions(checkpoint=checkpoint, checkpoint_given=True)
        found = anyio.run(lambda: replay(store, "talk", options, swapped(lambda _: None)))
    assert f"every token fits this seed with its generator {count} ahead" in remarks(found.verdicts[0])


@pytest.mark.parametrize(
    ("version", "words"),
    [(0, "the first order of operations"), (KERNEL_VERSION + 1, "a newer program made it")],
)
def test_another_kernel_version(replayed: Replayed, damage: Damage, version: int, words: str) -> None:
    damage("UPDATE generation SET environment = json_set(environment, '$.kernel_version', ?)", version)
    found = replayed()
    for verdict in found.verdicts:
        assert f"recorded under kernel version {version}, this program computes {KERNEL_VERSION}" in remarks(
            verdict
        )
        assert words in remarks(verdict)
        assert parts(verdict, deciding=False)[0] == "kernel_version"


def test_a_reply_that_another_arithmetic_made_is_no_more_than_its_tokens(
    replayed: Replayed, damage: Damage
) -> None:
    damage("UPDATE generation SET receipt = json_set(receipt, '$.logits_hash', ?)", "0" * 64)
    found = replayed()
    assert {verdict.kind for verdict in found.verdicts} == {"tokens_only"}
    assert found.kind == "diverged"  # for the stored bytes were changed
    assert len(found.faults) == 7


def test_a_recording_from_before_the_hash_had_its_form_is_not_called_exact(
    replayed: Replayed, damage: Damage
) -> None:
    damage("UPDATE generation SET receipt = json_remove(receipt, '$.smallest_margin')")
    found = replayed()
    assert {verdict.kind for verdict in found.verdicts} == {"tokens_only"}
    assert "no comparable hash" in remarks(found.verdicts[0])


def test_damaged_settings_leave_the_other_turns_verifiable(replayed: Replayed, damage: Damage) -> None:
    generation = replayed().questions[0].recorded.generation
    damage(
        "UPDATE generation SET sampling = json_set(sampling, '$.temperature', -1) WHERE id = ?", generation.id
    )
    found = replayed()
    assert [verdict.kind for verdict in found.verdicts] == ["unverifiable", *["exact"] * 5]
    assert "the settings of the reply are damaged: '-1' is not allowed" in found.verdicts[0].why


def test_a_line_a_person_reads_names_turn_place_and_texts(replayed: Replayed, damage: Damage) -> None:
    reply = replayed().questions[1].recorded.reply
    ids = [*(reply.token_ids or ())]
    ids[2] = ord("Q")
    damage("UPDATE message SET token_ids = ? WHERE id = ?", json.dumps(ids), reply.id)
    line = next(iter(turn_lines(replayed().verdicts[1])))
    assert line.startswith("turn 2    diverged     at token 2: expected 'Q")
    assert "(margin " in line


def test_without_a_flag_the_checkpoint_is_the_one_where_it_was_last(
    store_path: Path, damage: Damage, checkpoint: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved.pt"
    shutil.copy(checkpoint, moved)
    damage("UPDATE checkpoint SET path = ?, checksum = NULL", str(moved))
    with open_store(store_path) as store:
        found = anyio.run(lambda: replay(store, "talk", ChatOptions(), swapped(lambda _: None)))
    assert found.kind == "exact"
