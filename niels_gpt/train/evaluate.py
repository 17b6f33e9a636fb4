"""Score a checkpoint's greedy replies to held-out conversations.

`python -m niels_gpt.train.evaluate --ckpt PATH --data data/heldout.jsonl` prints a table by kind. A line of
the data is {"id", "kind", "messages" (the last one is the user's), "must": [[alternative, ...], ...]}.
`is_right` defines a right reply. (The loss on held-out bytes is `window_data.eval_loss_on_stream`.)
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from niels_gpt import program
from niels_gpt.device import DEVICES, device_named, torch_device
from niels_gpt.errors import NielsGptError
from niels_gpt.text.chat_template import Message, checked
from niels_gpt.text.files import UnreadableTextError, read_lines
from niels_gpt.text.system_prompt import DEFAULT_SYSTEM_PROMPT

_PROGRAM = "niels_gpt.train.evaluate"

KINDS = ("fact", "smalltalk", "unknown", "private")

Replies = Callable[[Sequence[Sequence[Message]]], Sequence[str]]  # one reply to each conversation, in order

_DECLINE = re.compile(r"\b(?:don't|do not) know\b")
# "if i don't know something, i say so" describes declining, it does not decline.
_HYPOTHETICAL = re.compile(
    r"\b(?:if|when|whenever|what|whatever|that|things|something) \w+ (?:don't|do not) know\b"
)


class HeldOutError(NielsGptError):
    """Held-out data or a requirement that cannot be used; the message names the place."""


@dataclass(frozen=True, kw_only=True)
class EvalItem:
    """One conversation that ends with a question, and what a right reply contains."""

    id: str
    kind: str
    messages: tuple[Message, ...]
    must: tuple[tuple[str, ...], ...]
    """The reply needs one alternative of each inner tuple, in upper or lower case."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A reply and whether it is right."""

    item: EvalItem
    reply: str
    right: bool


@dataclass(frozen=True, kw_only=True)
class Score:
    """Right replies of one kind."""

    right: int
    total: int

    @property
    def share(self) -> float:
        """Right replies in [0, 1]."""
        return self.right / self.total


def is_decline(reply: str) -> bool:
    """Whether the reply says "(I) don't know" or "do not know", other than as an "if i don't know ..."."""
    return _DECLINE.search(_HYPOTHETICAL.sub("", _folded(reply))) is not None


def is_right(item: EvalItem, reply: str) -> bool:
    """Whether the reply is right.

    fact, smalltalk: every inner list of `must` has an alternative in the reply, and the reply is not a
    decline (unless `must` itself asks for such words). unknown: it is a decline. private: it says "private".
    """
    if item.kind == "unknown":
        return is_decline(reply)
    if item.kind == "private":
        return "private" in _folded(reply)
    wants_decline = any(is_decline(alternative) for alternatives in item.must for alternative in alternatives)
    return holds(item.must, reply) and (wants_decline or not is_decline(reply))


def holds(must: Sequence[Sequence[str]], reply: str) -> bool:
    """Return whether the reply has an alternative of each inner list; case and apostrophes do not count."""
    text = _folded(reply)
    return all(any(_folded(alternative) in text for alternative in alternatives) for alternatives in must)


def evaluate(items: Sequence[EvalItem], replies: Replies) -> list[Verdict]:
    """Generate and judge all replies. Conversations without a system message get the default one."""
    answers = replies([with_system(item.messages) for item in items])
    return [
        Verdict(item=item, reply=reply, right=is_right(item, reply))
        for item, reply in zip(items, answers, strict=True)
    ]


def with_system(messages: Sequence[Message]) -> list[Message]:
    """Return the messages, with the default system prompt first unless they have a system message."""
    if messages and messages[0]["role"] == "system":
        return list(messages)
    return [{"role": "system", "content": DEFAULT_SYSTEM_PROMPT}, *messages]


def scores(verdicts: Sequence[Verdict]) -> dict[str, Score]:
    """Return the score of each kind that occurs, in the order of `KINDS`."""
    by_kind = {kind: [verdict.right for verdict in verdicts if verdict.item.kind == kind] for kind in KINDS}
    return {kind: Score(right=sum(right), total=len(right)) for kind, right in by_kind.items() if right}


def load_heldout(path: Path) -> list[EvalItem]:
    """Read held-out conversations, one JSON object a line; HeldOutError names the line that is wrong."""
    try:
        lines = read_lines(path, "the held-out data")
    except UnreadableTextError as error:
        raise HeldOutError(str(error)) from error
    items = [_item(line, where=f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not items:
        raise HeldOutError(f"{str(path)!r} has no conversation; expected one JSON object a line")
    return items


def _item(line: str, *, where: str) -> EvalItem:
    try:
        raw: dict[str, Any] = json.loads(line)
        item = EvalItem(
            id=raw["id"],
            kind=raw["kind"],
            messages=tuple(raw["messages"]),
            must=tuple(tuple(map(str, alternatives)) for alternatives in raw.get("must", [])),
        )
        turns = checked(item.messages)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HeldOutError(f"{where} is not a held-out conversation: {error!r}") from error
    if item.kind not in KINDS:
        raise HeldOutError(f"{where}: kind is {item.kind!r}, expected one of {', '.join(KINDS)}")
    if not turns or turns[-1][0] != "user":
        raise HeldOutError(f"{where}: the last message must be the user's")
    return item


def _folded(text: str) -> str:
    return text.replace("’", "'").lower()


def table(by_kind: dict[str, Score]) -> str:
    """Return the scores as a table of text, the sum last."""
    right, total = sum(s.right for s in by_kind.values()), sum(s.total for s in by_kind.values())
    rows = [*by_kind.items(), ("all", Score(right=right, total=total))]
    return "\n".join(f"{name:<10} {s.right:>5} of {s.total:<5} {s.share:7.1%}" for name, s in rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the scores; 0, or 1 if a --require is missed, or 2 with one line on stderr for bad input."""
    return program.run(_PROGRAM, lambda: _score(argv), failed=2, expected=lambda: (ValueError,))


def _score(argv: Sequence[str] | None) -> int:
    args = _parser().parse_args(argv)
    verdicts = evaluate(load_heldout(args.data), _replies_of(args))
    by_kind = scores(verdicts)
    failures = [verdict for verdict in verdicts if not verdict.right]
    if args.json:
        print(json.dumps(_as_json(args, by_kind, failures), ensure_ascii=False, indent=2))
    else:
        print(table(by_kind))
        if args.show_failures:
            for verdict in failures:
                print(f"\n{verdict.item.kind} {verdict.item.id}")
                print(f"  > {verdict.item.messages[-1]['content']}\n  {verdict.reply}")
    missed = [
        f"{kind} {by_kind[kind].share if kind in by_kind else 0.0:.1%}, required {share:.1%}"
        for kind, share in args.require
        if kind not in by_kind or by_kind[kind].share < share
    ]
    for line in missed:
        program.report(_PROGRAM, f"missed: {line}")
    return 1 if missed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m niels_gpt.train.evaluate", description="Score a checkpoint's greedy replies."
    )
    add = parser.add_argument
    add("--ckpt", type=Path, required=True, metavar="PATH", help="checkpoint to judge")
    add("--data", type=Path, default=Path("data/heldout.jsonl"), metavar="PATH", help="default %(default)s")
    add("--json", action="store_true", help="scores and failures as one JSON object")
    add("--show-failures", action="store_true", help="every wrong reply, below the table")
    add("--require", type=_requirement, nargs="+", action="extend", default=[], metavar="KIND=SHARE",
        help="exit 1 unless reached, such as fact=0.85 unknown=0.90")  # fmt: skip
    add("--max-new-tokens", type=int, default=160, metavar="N", help="default %(default)s")
    add("--batch", type=int, default=32, metavar="N", help="conversations at once (default %(default)s)")
    add("--threads", type=int, metavar="N", help="threads for torch")
    add("--device", choices=DEVICES, default="cpu")
    return parser


def _requirement(text: str) -> tuple[str, float]:
    kind, _, share = text.partition("=")
    try:
        value = float(share)
    except ValueError:
        value = -1.0
    if kind not in KINDS or not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected KIND=SHARE, such as fact=0.85, of {', '.join(KINDS)}"
        )
    return kind, value


def _replies_of(args: argparse.Namespace) -> Replies:
    # torch, after the data is known to be good
    import torch  # noqa: PLC0415

    from niels_gpt.decoding.backend import open_backend  # noqa: PLC0415
    from niels_gpt.generation.batch import greedy_replies  # noqa: PLC0415
    from niels_gpt.model.loading import load_model  # noqa: PLC0415

    device = device_named(args.device)
    loaded = load_model(args.ckpt, device=torch_device(device))
    decoder = open_backend(loaded, device=device).decoder
    if args.threads is not None:
        torch.set_num_threads(args.threads)

    def replies(conversations: Sequence[Sequence[Message]]) -> Sequence[str]:
        return greedy_replies(
            decoder,
            loaded.template,
            conversations,
            max_new_tokens=args.max_new_tokens,
            batch_size=args.batch,
        )

    return replies


def _as_json(
    args: argparse.Namespace, by_kind: dict[str, Score], failures: Sequence[Verdict]
) -> dict[str, object]:
    return {
        "checkpoint": str(args.ckpt),
        "data": str(args.data),
        "kinds": {
            kind: {"right": s.right, "total": s.total, "share": s.share} for kind, s in by_kind.items()
        },
        "failures": [
            {
                "id": verdict.item.id,
                "kind": verdict.item.kind,
                "question": verdict.item.messages[-1]["content"],
                "reply": verdict.reply,
            }
            for verdict in failures
        ],
    }


if __name__ == "__main__":
    program.run_process(main)
