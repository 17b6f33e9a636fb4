"""Judge one turn: from a recorded reply and the same reply made again to a verdict with its remarks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from engine import GenerationFailed, Result
from niels_gpt.decoding.sequence import logits_hash
from niels_gpt.kernels import KERNEL_HISTORY
from niels_gpt.replay.environment import recorded_environment
from niels_gpt.replay.reconstruct import Asked, Question
from niels_gpt.replay.verdict import Account, Difference, Verdict, compare
from niels_gpt.rng import reply_seed
from niels_gpt.text.detokenizer import Detokenizer


def unverifiable(question: Question, why: str, differing: Sequence[Difference] = ()) -> Verdict:
    """Return the verdict on a turn that could not be asked again."""
    return Verdict(
        kind="unverifiable",
        turn=question.turn,
        position=question.position,
        why=why,
        differing=tuple(differing),
        remarks=tuple(_remarks(question, differing)),
    )


def judge(
    asked: Asked,
    result: Result | GenerationFailed | None,
    *,
    model: Any,
    differing: Sequence[Difference],
) -> Verdict:
    """Return the verdict on a turn; `result` None where there was nothing to generate."""
    question = asked.question
    if isinstance(result, GenerationFailed):
        return unverifiable(question, f"it cannot be generated again: {result}", differing)
    verdict = compare(
        recorded_account(question),
        found_account(asked, result, model),
        turn=question.turn,
        position=question.position,
        decode=lambda ids: _text(model, ids, _stops(asked, model), whole=True),
        differing=differing,
    )
    remarks = [*_remarks(question, differing), *_prompt_remarks(asked)]
    return replace(verdict, remarks=tuple(remarks))


def recorded_account(question: Question) -> Account:
    """Return what is stored of a reply."""
    generation, reply = question.recorded.generation, question.recorded.reply
    return Account(
        prompt_hash=generation.prompt_hash,
        token_ids=reply.token_ids or (),
        text=reply.content,
        finish_reason=generation.finish_reason or "",
        logits_hash=_recorded_hash(question),
    )


def _recorded_hash(question: Question) -> str | None:
    receipt: Mapping[str, object] = question.recorded.generation.receipt or {}
    found = receipt.get("logits_hash")
    # Before the closest decision was recorded, the hash was made otherwise.
    return found if isinstance(found, str) and "smallest_margin" in receipt else None


def found_account(asked: Asked, result: Result | None, model: Any) -> Account:
    """Return what was made again; as with the stored reply, a stopped one lacks the text still held back."""
    if result is None:
        ids, reason, receipt = (), "cancelled", {"logits_hash": logits_hash([])}
    else:
        ids, reason, receipt = result.token_ids, result.reason, result.receipt
    stopped_again = asked.question.was_cancelled and reason == "length"
    found = receipt.get("logits_hash")
    return Account(
        prompt_hash=asked.prompt_hash,
        token_ids=ids,
        text=_text(model, ids, _stops(asked, model), whole=not (stopped_again or result is None)),
        finish_reason="cancelled" if stopped_again else reason,
        logits_hash=found if isinstance(found, str) else None,
    )


def _stops(asked: Asked, model: Any) -> Sequence[bytes]:
    """Return what ends the reply, texts of the request included."""
    return model.template.stop_sequences if asked.request is None else asked.request.stop_sequences


def _text(model: Any, ids: Sequence[int], stop_sequences: Sequence[bytes], *, whole: bool) -> str:
    """Return what tokens say, up to a stop sequence; unless `whole`, without what was still held back."""
    text = Detokenizer(model.tokenizer.token_bytes, stop_sequences)
    said = "".join([text.push(token_id) for token_id in ids])
    return said + text.finish() if whole else said


def _remarks(question: Question, differing: Sequence[Difference]) -> Iterable[str]:
    generation = question.recorded.generation
    environment = recorded_environment(generation)
    version = environment.kernel_version
    found = next((each.found for each in differing if each.part == "kernel_version"), None)
    if version is not None and isinstance(found, int):
        since = KERNEL_HISTORY[found] if version < found else "a newer program made it"
        yield f"recorded under kernel version {version}, this program computes {found}: {since}"
    made_of = environment.seed_source
    if made_of is not None:
        seed = reply_seed(made_of.session_seed, made_of.turn, made_of.attempt)
        if seed != generation.seed:
            yield (
                f"the stored seed is {generation.seed}, but session seed {made_of.session_seed}, position "
                f"{made_of.turn} and attempt {made_of.attempt} give {seed}"
            )
    if environment.path == "torch":
        yield "made by torch, which promises tokens: its bits depend on what else was in the batch"
    if _recorded_hash(question) is None:
        yield "no comparable hash of the logits was recorded"


def _prompt_remarks(asked: Asked) -> Iterable[str]:
    generation = asked.question.recorded.generation
    if asked.trimmed_turns != generation.trimmed_turns:
        yield (
            f"{generation.trimmed_turns} oldest turns were left out of the prompt then, "
            f"{asked.trimmed_turns} now"
        )
