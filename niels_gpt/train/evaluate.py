"""Score a checkpoint's greedy replies to held-out conversations, or compare two checkpoints.

    python -m niels_gpt.train.evaluate --ckpt A
    python -m niels_gpt.train.evaluate --ckpt A --compare B --show-failures

The table has a row for each group of the questions (`held_out`). The loss on held-out bytes is
`window_data.eval_loss_on_stream`.

The interval of a share p = right / n is Wilson's score interval at 95%:

    (p + z^2 / 2n  -+  z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n),    z = 1.959964

Two checkpoints answer the same questions, so they are compared by McNemar's exact test. Of the b + c
questions that one of them alone answers correctly, A answers b and B answers c; p is the two-sided binomial
probability of a split at least as uneven if both were equally good:

    min(1, 2 sum over i <= min(b, c) of C(b + c, i) / 2^(b + c))
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

from niels_gpt import program
from niels_gpt.device import DEVICES, device_named, torch_device
from niels_gpt.text.chat_template import Message
from niels_gpt.train.held_out import GROUPS, EvalItem, is_right, load_heldout, with_system

_PROGRAM = "niels_gpt.train.evaluate"

ALL = "all"
"""The name of the sum over all groups."""

_NAMES = ", ".join((*GROUPS, ALL))
_Z = NormalDist().inv_cdf(0.975)

Replies = Callable[[Sequence[Sequence[Message]]], Sequence[str]]  # one reply to each conversation, in order


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A reply and whether it is right."""

    item: EvalItem
    reply: str
    right: bool


@dataclass(frozen=True, kw_only=True)
class Score:
    """Right replies of one group."""

    right: int
    total: int

    @property
    def share(self) -> float:
        """Right replies in [0, 1]."""
        return self.right / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's interval of the share, at 95%."""
        spread = _Z * _Z / self.total
        middle = self.share + spread / 2
        half = math.sqrt(spread * (self.share * (1 - self.share) + spread / 4))
        return (
            max(0.0, (middle - half) / (1 + spread)),
            min(1.0, (middle + half) / (1 + spread)),
        )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The replies of two checkpoints, A and B, to the same questions of one group."""

    a: Score
    b: Score
    only_a: tuple[str, ...]
    """Ids of the questions that A alone answers correctly."""
    only_b: tuple[str, ...]

    @property
    def p(self) -> float:
        """McNemar's exact two-sided p."""
        return mcnemar_p(len(self.only_a), len(self.only_b))


def mcnemar_p(only_a: int, only_b: int) -> float:
    """Return McNemar's exact two-sided p.

    Args:
        only_a: How many questions checkpoint A alone answers correctly.
        only_b: The same for checkpoint B.

    """
    differing = only_a + only_b
    as_uneven = sum(math.comb(differing, count) for count in range(min(only_a, only_b) + 1))
    return min(1.0, 2 * as_uneven / 2**differing)


def evaluate(items: Sequence[EvalItem], replies: Replies) -> list[Verdict]:
    """Generate and judge all replies. Conversations without a system message get the default one."""
    answers = replies([with_system(item.messages) for item in items])
    return [
        Verdict(item=item, reply=reply, right=is_right(item, reply))
        for item, reply in zip(items, answers, strict=True)
    ]


def scores(verdicts: Sequence[Verdict]) -> dict[str, Score]:
    """Return the score of each group that occurs, in the order of `GROUPS`, and that of all."""
    return {
        name: Score(right=sum(verdict.right for verdict in members), total=len(members))
        for name, members in _by_group(verdicts).items()
    }


def compare(a: Sequence[Verdict], b: Sequence[Verdict]) -> dict[str, Comparison]:
    """Return the comparison of each group that occurs, in the order of `GROUPS`, and that of all.

    Args:
        a: The verdicts on the replies of checkpoint A.
        b: Those of checkpoint B on the same items, in the same order.

    """
    scores_a, scores_b = scores(a), scores(b)
    pairs = list(zip(a, b, strict=True))
    return {
        name: Comparison(
            a=scores_a[name],
            b=scores_b[name],
            only_a=tuple(x.item.id for x, y in pairs if name in (ALL, x.item.group) and x.right > y.right),
            only_b=tuple(x.item.id for x, y in pairs if name in (ALL, x.item.group) and x.right < y.right),
        )
        for name in scores_a
    }


def _by_group(verdicts: Sequence[Verdict]) -> dict[str, list[Verdict]]:
    groups = {name: [verdict for verdict in verdicts if verdict.item.group == name] for name in GROUPS}
    return {name: members for name, members in groups.items() if members} | {ALL: list(verdicts)}


def table(by_group: Mapping[str, Score]) -> str:
    """Return the scores as a table of text."""
    rows = [f"{'':<12} {'right':>5}    {'':<5} {'share':>7}  95% interval"]
    for name, score in by_group.items():
        low, high = score.interval
        rows.append(
            f"{name:<12} {score.right:>5} of {score.total:<5} {score.share:7.1%}  {low:.1%} to {high:.1%}"
        )
    return "\n".join(rows)


def comparison_table(by_group: Mapping[str, Comparison]) -> str:
    """Return the comparison as a table of text, with the ids of the questions that differ below it."""
    rows = [f"{'':<12} {'A':>7} {'B':>7}  {'only A':>6} {'only B':>6}  {'p':>6}"]
    for name, row in by_group.items():
        changed = f"{len(row.only_a):>6} {len(row.only_b):>6}"
        rows.append(f"{name:<12} {row.a.share:7.1%} {row.b.share:7.1%}  {changed}  {row.p:6.3f}")
    everything = by_group[ALL]
    rows.append(f"right in A, wrong in B: {' '.join(everything.only_a) or 'none'}")
    rows.append(f"right in B, wrong in A: {' '.join(everything.only_b) or 'none'}")
    return "\n".join(rows)


def failures_text(verdicts: Sequence[Verdict], other: Sequence[Verdict] | None = None) -> str:
    """Return each question that got a wrong reply, with the reply.

    Args:
        verdicts: The verdicts on the replies of checkpoint A.
        other: Those of checkpoint B, if two are compared. Then a question that either of them failed is
            listed with both replies.

    """
    lines: list[str] = []
    for verdict, second in zip(verdicts, other or verdicts, strict=True):
        if verdict.right and second.right:
            continue
        lines.append(f"\n{verdict.item.group} {verdict.item.id}\n  > {verdict.item.messages[-1]['content']}")
        if other is None:
            lines.append(f"  {verdict.reply}")
        else:
            both = (("A", verdict), ("B", second))
            lines += [f"  {name} {'right' if each.right else 'wrong'}: {each.reply}" for name, each in both]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the scores; 0, or 1 if a --require is missed, or 2 with one line on stderr for bad input."""
    return program.run(_PROGRAM, lambda: _score(argv), failed=2, expected=lambda: (ValueError,))


def _score(argv: Sequence[str] | None) -> int:
    args = _parser().parse_args(argv)
    items = load_heldout(args.data)
    verdicts = evaluate(items, _replies_of(args.ckpt, args))
    other = None if args.compare is None else evaluate(items, _replies_of(args.compare, args))
    by_group = scores(verdicts)
    if args.json:
        print(json.dumps(_as_json(args, verdicts, other), ensure_ascii=False, indent=2))
    else:
        print(table(by_group))
        if other is not None:
            print(f"\nA: {args.ckpt}\nB: {args.compare}\n{comparison_table(compare(verdicts, other))}")
        if args.show_failures:
            print(failures_text(verdicts, other))
    missed = [
        f"{name} {by_group[name].share if name in by_group else 0.0:.1%}, required {share:.1%}"
        for name, share in args.require
        if name not in by_group or by_group[name].share < share
    ]
    for line in missed:
        program.report(_PROGRAM, f"missed: {line}")
    return 1 if missed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m niels_gpt.train.evaluate",
        description="Score a checkpoint's greedy replies to held-out questions, or compare two checkpoints.",
    )
    add = parser.add_argument
    add("--ckpt", type=Path, required=True, metavar="A", help="checkpoint to judge")
    add("--compare", type=Path, metavar="B", help="another one, to compare it with on the same questions")
    add("--data", type=Path, default=Path("data/heldout.jsonl"), metavar="PATH", help="default %(default)s")
    add("--json", action="store_true", help="scores and failures as one JSON object")
    add("--show-failures", action="store_true", help="every wrong reply, below the table")
    add("--require", type=_requirement, nargs="+", action="extend", default=[], metavar="GROUP=SHARE",
        help=f"exit 1 unless A reaches it, such as facts=0.97 'small talk=0.9'; of {_NAMES}")  # fmt: skip
    add("--max-new-tokens", type=int, default=160, metavar="N", help="default %(default)s")
    add("--batch", type=int, default=32, metavar="N", help="conversations at once (default %(default)s)")
    add("--threads", type=int, metavar="N", help="threads for torch")
    add("--device", choices=DEVICES, default="cpu")
    return parser


def _requirement(text: str) -> tuple[str, float]:
    group, _, share = text.partition("=")
    try:
        value = float(share)
    except ValueError:
        value = -1.0
    if group not in (*GROUPS, ALL) or not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected GROUP=SHARE, such as facts=0.97, with a group of {_NAMES}"
        )
    return group, value


def _replies_of(checkpoint: Path, args: argparse.Namespace) -> Replies:
    # torch, after the data is known to be good
    import torch  # noqa: PLC0415

    from niels_gpt.decoding.backend import open_backend  # noqa: PLC0415
    from niels_gpt.generation.batch import greedy_replies  # noqa: PLC0415
    from niels_gpt.model.loading import load_model  # noqa: PLC0415

    device = device_named(args.device)
    loaded = load_model(checkpoint, device=torch_device(device))
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
    args: argparse.Namespace, verdicts: Sequence[Verdict], other: Sequence[Verdict] | None
) -> dict[str, object]:
    report: dict[str, object] = {
        "checkpoint": str(args.ckpt),
        "data": str(args.data),
        "groups": {
            name: {"right": s.right, "total": s.total, "share": s.share, "interval": s.interval}
            for name, s in scores(verdicts).items()
        },
        "failures": _failures(verdicts),
    }
    if other is not None:
        report["compared_with"] = str(args.compare)
        report["comparison"] = {
            name: {
                "a": row.a.share,
                "b": row.b.share,
                "only_a": row.only_a,
                "only_b": row.only_b,
                "p": row.p,
            }
            for name, row in compare(verdicts, other).items()
        }
        report["failures_of_the_other"] = _failures(other)
    return report


def _failures(verdicts: Sequence[Verdict]) -> list[dict[str, str]]:
    return [
        {
            "id": verdict.item.id,
            "group": verdict.item.group,
            "kind": verdict.item.kind,
            "question": verdict.item.messages[-1]["content"],
            "reply": verdict.reply,
        }
        for verdict in verdicts
        if not verdict.right
    ]


if __name__ == "__main__":
    program.run_process(main)
