"""`niels-chat audit ARCHIVE`: make the replies of an exported archive again, and account for the verdicts.

Writes one line of JSON for each reply and a last one that sums them up. Shards, merged, give the same bytes
as one process; a run with --output resumes after it was killed.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from niels_gpt.cli.exit_codes import DIVERGED, OK, UNVERIFIABLE
from niels_gpt.cli.jobs import shards
from niels_gpt.cli.jobs.progress import Progress
from niels_gpt.cli.jobs.ray_tasks import add_ray, run_shards
from niels_gpt.cli.subcommands import helpers
from niels_gpt.conversation.errors import ChatError
from niels_gpt.conversation.options import DEFAULT_CHECKPOINT, ChatOptions
from niels_gpt.device import DEVICES

if TYPE_CHECKING:
    from niels_gpt.cli.jobs.archive import ArchiveFile, StoredSession
    from niels_gpt.replay.audit import Auditor, Summary

_GROUP = 8  # times the replies that are made side by side: what is read before they begin


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    add = parser.add_argument
    add(
        "archive",
        metavar="ARCHIVE",
        type=Path,
        help="JSON lines of niels-chat export, also compressed by gzip",
    )
    add("--output", "-o", metavar="FILE", type=Path, help="write the verdicts here, and resume them")
    add("--force", action="store_true", help="overwrite FILE if it exists")
    shards.add_shard(parser, "do part I of N of the sessions, counted from 0, and write FILE.I-of-N")
    add("--merge", action="store_true", help="join the outputs of all shards; nothing is audited")
    add("--sample", type=_count, metavar="K", help="only K replies, chosen by a hash of their digests")
    add("--sample-key", default="", metavar="TEXT", help="a text of yours that the choice depends on")
    add("--ckpt", type=Path, metavar="PATH", help="the checkpoint (default: the recorded one)")
    add("--device", choices=DEVICES, default="cpu", help="where the model runs (default: cpu)")
    add("--threads", type=_count, metavar="N", help="threads of the kernels; the results are the same")
    add("--batch", type=_count, default=32, metavar="N", help="replies made side by side (default: 32)")
    add_ray(parser)


def run(flags: argparse.Namespace) -> int:
    """Audit, or merge the audits of shards, and return the status that stands for the worst verdict."""
    output: Path | None = flags.output
    if output is None and (flags.shard or flags.merge or flags.ray is not None):
        raise ChatError("--shard, --merge and --ray need an --output FILE")
    if output is not None and flags.ray is not None:
        run_shards("niels-chat", ["audit", *_arguments(flags)], output, address=flags.ray)
    if flags.merge or flags.ray is not None:
        summary = _merge(flags)
    elif flags.output is None:
        summary = _to_standard_output(flags)
    else:
        summary = _to_file(flags)
    _say(summary, flags)
    if any(summary.verdicts[kind] for kind in ("diverged", "damaged")):
        return DIVERGED
    return UNVERIFIABLE if summary.verdicts["unverifiable"] else OK


def _arguments(flags: argparse.Namespace) -> list[str]:
    """Return the arguments with which a shard of the same audit is run."""
    found = [str(flags.archive), "--output", str(flags.output), "--batch", str(flags.batch)]
    for name in ("sample", "sample_key", "ckpt", "device", "threads"):
        value = getattr(flags, name)
        if value not in (None, ""):
            found += [f"--{name.replace('_', '-')}", str(value)]
    return found


def _to_standard_output(flags: argparse.Namespace) -> Summary:
    from niels_gpt.cli.jobs.archive import open_archive  # noqa: PLC0415 - --help needs none of this
    from niels_gpt.replay.audit import Summary  # noqa: PLC0415

    archive, summary = open_archive(flags.archive), Summary()
    with closing(_auditor(flags, archive)) as auditor:
        done = 0
        for lines, _ in _verdicts(auditor, archive, archive.sessions(), flags.batch):
            _show(lines, summary)
            done += 1
        _show(_missing(archive, done), summary)
    sys.stdout.write(_summary_line(summary, flags))
    return summary


def _show(lines: Sequence[str], summary: Summary) -> None:
    for line in lines:
        summary.add(line.encode())
        sys.stdout.write(line)
    sys.stdout.flush()


def _to_file(flags: argparse.Namespace) -> Summary:
    from niels_gpt.cli.jobs.archive import open_archive  # noqa: PLC0415 - --help needs none of this
    from niels_gpt.cli.jobs.journal import Journal  # noqa: PLC0415
    from niels_gpt.replay.audit import Summary  # noqa: PLC0415

    archive, output, summary = open_archive(flags.archive), flags.output, Summary()
    if flags.shard is not None:
        archive, output = archive.shard(*flags.shard), shards.part_of(output, *flags.shard)
    is_part = flags.shard is not None
    journal = Journal(output, job=_job(flags), source=archive, force=flags.force, keeps_marks=is_part)
    with journal:
        is_summed_up = False
        for line in _lines_of(output) if journal.done else ():
            is_summed_up = is_summed_up or b'"summary"' in line
            if not is_summed_up:
                summary.add(line)
        if journal.is_complete or is_summed_up:
            helpers.remark(f"{output} is complete already")
            return summary
        progress = Progress(archive.count, sys.stderr, done=journal.done, unit="sessions")
        sessions = archive.sessions(journal.place, done=journal.done)
        with closing(_auditor(flags, archive)) as auditor:
            for lines, session in _verdicts(auditor, archive, sessions, flags.batch):
                for line in lines:
                    summary.add(line.encode())
                journal.add("".join(lines), raw=session.raw, place=session.end)
                progress.add(replies=1)
        progress.finish()
        end = _missing(archive, journal.done)
        for line in end:
            summary.add(line.encode())
        if not is_part:
            end.append(_summary_line(summary, flags))
        if end:
            journal.add("".join(end))
    return summary


def _merge(flags: argparse.Namespace) -> Summary:
    from niels_gpt.replay.audit import Summary  # noqa: PLC0415 - --help needs none of this

    summary = Summary()

    def close(parts: Sequence[Path]) -> bytes:
        for part in parts:
            for line in _lines_of(part):
                summary.add(line)
        return _summary_line(summary, flags).encode()

    shards.merge(flags.output, force=flags.force, tail=close)
    return summary


def _auditor(flags: argparse.Namespace, archive: ArchiveFile) -> Auditor:
    from niels_gpt.conversation.opening import open_model  # noqa: PLC0415 - heavy
    from niels_gpt.replay.audit import Auditor, sampled  # noqa: PLC0415

    options = ChatOptions(
        checkpoint=flags.ckpt or DEFAULT_CHECKPOINT,
        checkpoint_given=flags.ckpt is not None,
        device=flags.device,
        threads=flags.threads,
    )
    if flags.sample is None:
        return Auditor(options, open_model, batch=flags.batch)
    chosen = sampled(archive.reply_digests(), flags.sample, key=flags.sample_key)
    return Auditor(options, open_model, batch=flags.batch, is_chosen=chosen)


def _verdicts(
    auditor: Auditor, archive: ArchiveFile, sessions: Iterator[StoredSession], batch: int
) -> Iterator[tuple[list[str], StoredSession]]:
    """Yield the lines of each session; as many sessions are read together as keep the model busy."""
    group: list[StoredSession] = []
    lines = 0
    for session in sessions:
        group.append(session)
        lines += len(session.lines)
        if lines >= _GROUP * batch * 3:  # a reply is about three lines: the user's, its own, its generation
            yield from _judged(auditor, archive, group)
            group, lines = [], 0
    yield from _judged(auditor, archive, group)


def _missing(archive: ArchiveFile, done: int) -> list[str]:
    """Return the line about sessions that the archive counts and does not have, if there are any."""
    if not archive.is_last or done >= archive.count:
        return []
    ends, count = archive.first + done, archive.first + archive.count
    why = f"{archive.path.name} ends after {ends} of its {count} sessions"
    return [helpers.json_line({"session": "", "verdict": "damaged", "why": why}) + "\n"]


def _judged(
    auditor: Auditor, archive: ArchiveFile, group: Sequence[StoredSession]
) -> Iterator[tuple[list[str], StoredSession]]:
    found = auditor.verdicts([session.lines for session in group], name=archive.path.name)
    for session, values in zip(group, found, strict=True):
        yield [helpers.json_line(value) + "\n" for value in values], session


def _lines_of(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from file


def _summary_line(summary: Summary, flags: argparse.Namespace) -> str:
    return helpers.json_line(summary.value(sample=flags.sample)) + "\n"


def _job(flags: argparse.Namespace) -> str:
    """Return a digest of everything that decides the verdicts besides the archive."""
    parts = (flags.sample, flags.sample_key, flags.ckpt and str(flags.ckpt.resolve()), flags.device)
    shard_count = flags.shard and flags.shard[1]
    return hashlib.sha256(repr(("audit 1", *parts, shard_count)).encode()).hexdigest()


def _say(summary: Summary, flags: argparse.Namespace) -> None:
    counts = (
        ", ".join(f"{count:,} {kind}" for kind, count in sorted(summary.verdicts.items())) or "no replies"
    )
    helpers.remark(f"{counts}; root {summary.root}")
    bound = summary.value(sample=flags.sample).get("wrong_at_most")
    if isinstance(bound, float) and flags.shard is None:
        helpers.remark(f"with 95% confidence at most {bound:.2%} of all replies are wrong")


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed: a whole number from 1 up")
    return value
