"""`python -m verifier ARCHIVE CHECKPOINT [--turns K]`: re-execute the replies of an exported archive."""

from __future__ import annotations

import argparse
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pickle import UnpicklingError
from typing import Any

from verifier.gguf import ChatML, GGUFModel
from verifier.model import Model, NotVerifiable
from verifier.record import Archive, Row, Template, faults, prompt_hash, prompt_ids, read_archives
from verifier.sampler import draw, logits_hash, reply_seed, row_multipliers, row_sum, uniforms


def difference(archive: Archive, row: Row, model: Any, template: Any) -> str | None:
    """Return the first difference between a stored reply and its re-execution, or None."""
    reply = archive.messages[row["reply_id"]]
    prompt = prompt_ids(archive, row, template, model.cfg["T"])
    other = _other_question(row, reply, prompt, model)
    ids, forced = reply["token_ids"], len(row["forced_ids"])
    if other or len(ids) == forced:
        return other
    logits = model.logits([*prompt, *ids[:-1]], len(ids) - forced)
    numbers, multipliers = uniforms(row["seed"], len(ids)), row_multipliers(model.cfg["V"])
    for index, scores in enumerate(logits, start=forced):
        spent = index if row["sampling"]["temperature"] > 0 else 0
        history = [*prompt, *ids[:index]]
        token_id = draw(scores, row["sampling"], history, template.banned, numbers[spent])
        if token_id != ids[index]:
            return f"at token {index}: recorded {ids[index]}, drawn {token_id}"
    recorded = row["receipt"].get("logits_hash")
    if recorded and recorded != logits_hash(row_sum(scores, multipliers) for scores in logits):
        return "its tokens are the same, its logits have other bits"
    return _other_ending(row, reply, len(prompt), model, template)


def _other_question(row: Row, reply: Row, prompt: Sequence[int], model: Any) -> str | None:
    source, forced = row["environment"].get("seed_source"), row["forced_ids"]
    if source and reply_seed(source["session_seed"], source["turn"], source["attempt"]) != row["seed"]:
        return "its seed does not follow from the session's"
    if prompt_hash(prompt) != row["prompt_hash"]:
        return "its prompt is not the recorded one"
    if reply["token_ids"][: len(forced)] != forced:
        return "its forced tokens are not its first ones"
    if not all(0 <= token_id < model.cfg["V"] for token_id in reply["token_ids"]):
        return "it has a token id that the model does not have"
    return None


def _other_ending(row: Row, reply: Row, prompt_tokens: int, model: Any, template: Any) -> str | None:
    ids, stored = reply["token_ids"], row["finish_reason"]
    text, stopped = template.text(ids)
    if stored == "cancelled":
        return None if text.startswith(reply["content"]) else "its text is not that of its tokens"
    if ids[-1] in template.stop_ids or stopped:
        reason = "stop"
    elif len(ids) >= row["max_new_tokens"]:
        reason = "length"
    else:
        reason = "context" if prompt_tokens + len(ids) >= model.cfg["T"] else "nothing"
    if reason != stored:
        return f"it ends by {reason!r}, recorded as {stored!r}"
    return None if text == reply["content"] else "its text is not that of its tokens"


def opened(checkpoint: str, form: str) -> tuple[Any, Any]:
    """Return a checkpoint's model with weights of a form, and its template."""
    with open(checkpoint, "rb") as file:  # noqa: PTH123 - a name from the command line
        is_gguf = file.read(4) == b"GGUF"
    if form not in ({"stored"} if is_gguf else {"float32", "int8"}):
        raise NotVerifiable(f"replies with {form!r} weights of such a file are not covered")
    if is_gguf:
        model = GGUFModel(checkpoint)
        return model, ChatML(model)
    model = Model(checkpoint, int8=form == "int8")
    return model, Template(model.tokenizer_json)


def verified(archive: Archive, checkpoint: str, most: int | None) -> Iterator[tuple[str, bool]]:
    """Yield a line for each reply, and whether it is exact."""
    models: dict[str, Any] = {}
    for number, row in enumerate(archive.generations[:most], start=1):
        if row["reply_id"] is None:
            continue
        form = row["environment"].get("weights", "float32")
        if form not in models:
            models[form] = opened(checkpoint, form)
        (model, template), parts = models[form], archive.checkpoints[row["checkpoint_id"]]["parts"]
        other = [name for name, digest in model.fingerprint().items() if digest != parts[name]]
        where = f"{archive.sessions[0]['name']!r}, reply {number}"
        if other:
            yield f"{where}: made by a checkpoint with other {', '.join(other)}", False
            continue
        found = difference(archive, row, model, template)
        yield f"{where}: {found or 'exact'}", found is None


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line per reply; return 0 if all are exact, 3 if one is not, 4 if one is not covered."""
    parser = argparse.ArgumentParser(prog="python -m verifier", description="Re-execute stored replies.")
    parser.add_argument("archive", help="JSON lines that niels-chat export wrote")
    parser.add_argument("checkpoint", help="the .pt or .gguf file that gave the replies")
    parser.add_argument("--turns", type=int, metavar="K", help="only the first K replies of each session")
    flags = parser.parse_args(argv)
    exact = total = bad = 0
    try:
        for archive in read_archives(flags.archive):
            for fault in faults(archive):
                print(fault)
                bad += 1
            for line, same in verified(archive, flags.checkpoint, flags.turns):
                print(line)
                total, exact = total + 1, exact + same
    except NotVerifiable as error:
        print(f"not covered: {error}", file=sys.stderr)
        return 4
    except (OSError, LookupError, TypeError, ValueError, UnpicklingError, zipfile.BadZipFile) as error:
        print(f"cannot be read: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(f"{exact} of {total} replies exact, {bad} changed records")
    return 0 if exact == total and not bad else 3


if __name__ == "__main__":
    sys.exit(main())
