"""Audit exported archives: verdicts, shards, resuming, samples, the summary, and damaged archives."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from bench.audit import forged
from niels_gpt.chat_cli import run_chat_cli
from niels_gpt.cli.jobs.journal import journal_of
from niels_gpt.cli.jobs.shards import part_of
from niels_gpt.replay.audit import Summary, sampled, upper_bound
from sessions import SessionArchive, open_store
from sessions.formats.native import write as write_archive

Audit = Callable[..., int]


@pytest.fixture(scope="module")
def archives(recorded: Path) -> list[SessionArchive]:
    with open_store(recorded) as store:
        return [store.export_session(each.id) for each in store.sessions()]


def written(path: Path, archives: Sequence[SessionArchive]) -> Path:
    with path.open("w", encoding="utf-8") as file:
        write_archive(archives, file)
    return path


@pytest.fixture
def archive(tmp_path: Path, archives: list[SessionArchive]) -> Path:
    """The two recorded sessions, and the first of them under two more names."""
    copies = [replace(archives[0], session=replace(archives[0].session, name=name)) for name in ("b", "c")]
    return written(tmp_path / "archive.jsonl", [*archives, *copies])


@pytest.fixture
def audit(archive: Path, checkpoint: Path) -> Audit:
    def run(output: Path, *more: str, of: Path = archive) -> int:
        return run_chat_cli(["audit", str(of), "--ckpt", str(checkpoint), "--output", str(output), *more])

    return run


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_every_reply_of_every_branch_gets_a_line_and_all_are_exact(
    audit: Audit, archives: list[SessionArchive], tmp_path: Path
) -> None:
    assert audit(tmp_path / "out.jsonl") == 0
    *verdicts, summary = lines(tmp_path / "out.jsonl")
    replies = [sum(each.reply_id is not None for each in archive.generations) for archive in archives]
    assert len(verdicts) == 3 * replies[0] + replies[1]
    assert {verdict["verdict"] for verdict in verdicts} == {"exact"}
    assert summary["verdicts"] == {"exact": len(verdicts)}
    assert verdicts[0]["digest"] == archives[0].generations[0].digest


def test_shards_a_compressed_archive_and_a_resumed_run_give_the_same_bytes(
    audit: Audit, archive: Path, tmp_path: Path
) -> None:
    audit(tmp_path / "whole.jsonl")
    expected = (tmp_path / "whole.jsonl").read_bytes()
    for number in (2, 0, 1):
        audit(tmp_path / "cut.jsonl", "--shard", f"{number}/3")
    assert audit(tmp_path / "cut.jsonl", "--merge") == 0
    assert (tmp_path / "cut.jsonl").read_bytes() == expected

    packed = tmp_path / "packed.gz"
    packed.write_bytes(gzip.compress(archive.read_bytes()))
    audit(tmp_path / "unpacked.jsonl", of=packed)
    assert (tmp_path / "unpacked.jsonl").read_bytes() == expected

    part = part_of(tmp_path / "cut.jsonl", 1, 3)
    whole_part = part.read_bytes()
    marks = journal_of(part).read_bytes().splitlines(keepends=True)
    journal_of(part).write_bytes(b"".join(marks[:-2]))  # a kill in the middle of the last session
    part.write_bytes(whole_part[:-7])
    audit(tmp_path / "cut.jsonl", "--shard", "1/3")
    assert part.read_bytes() == whole_part


def test_a_change_is_found_at_its_line_and_a_forged_one_at_its_token(
    audit: Audit, archives: list[SessionArchive], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = archives[0]
    reply = next(each for each in first.messages if each.role == "assistant" and each.token_ids)
    ids = (*(reply.token_ids or ())[:2], 7, *(reply.token_ids or ())[3:])
    messages = [replace(each, token_ids=ids) if each.id == reply.id else each for each in first.messages]
    changed = replace(first, messages=tuple(messages))
    path = written(tmp_path / "changed.jsonl", [changed, forged(changed)])
    assert audit(tmp_path / "out.jsonl", of=path) == 3
    damaged, *verdicts, summary = lines(tmp_path / "out.jsonl")
    assert damaged["verdict"] == "damaged"
    assert "line 6, digest" in damaged["why"]
    [diverged] = [each for each in verdicts if each["verdict"] != "exact"]
    assert diverged["divergence"]["place"] == "token"
    assert diverged["divergence"]["index"] == 2
    assert [each["verdict"] for each in summary["first"]] == ["damaged", "diverged"]
    assert "1 damaged, 1 diverged" in capsys.readouterr().err


def test_a_sample_is_the_same_in_shards_and_depends_on_the_key(audit: Audit, tmp_path: Path) -> None:
    audit(tmp_path / "whole.jsonl", "--sample", "3", "--sample-key", "k")
    for number in range(2):
        audit(tmp_path / "cut.jsonl", "--sample", "3", "--sample-key", "k", "--shard", f"{number}/2")
    audit(tmp_path / "cut.jsonl", "--sample", "3", "--sample-key", "k", "--merge")
    assert (tmp_path / "cut.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    summary = lines(tmp_path / "whole.jsonl")[-1]
    assert summary["wrong_at_most"] == pytest.approx(1 - 0.05 ** (1 / summary["replies"]))

    digests = [hashlib.sha256(bytes([n])).hexdigest() for n in range(100)]
    chosen = {key: [d for d in digests if sampled(digests, 10, key=key)(d)] for key in ("k", "l")}
    assert len(chosen["k"]) == len(chosen["l"]) == 10
    assert chosen["k"] != chosen["l"]


@pytest.mark.parametrize(("wrong", "checked"), [(0, 59), (2, 30), (5, 1000), (29, 30)])
def test_the_bound_is_the_share_at_which_so_few_wrong_replies_have_a_chance_of_a_twentieth(
    wrong: int, checked: int
) -> None:
    share = upper_bound(wrong, checked)
    chance = sum(math.comb(checked, k) * share**k * (1 - share) ** (checked - k) for k in range(wrong + 1))
    assert chance == pytest.approx(0.05)
    assert upper_bound(checked, checked) == 1.0


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 8, 13])
def test_the_root_is_that_of_rfc_6962(count: int) -> None:
    leaves = [json.dumps({"verdict": "exact", "n": n}).encode() for n in range(count)]

    def root(of: Sequence[bytes]) -> bytes:
        if len(of) < 2:
            return hashlib.sha256(b"\0" + of[0] if of else b"").digest()
        half = 1 << ((len(of) - 1).bit_length() - 1)
        return hashlib.sha256(b"\x01" + root(of[:half]) + root(of[half:])).digest()

    summary, other = Summary(), Summary()
    for number, leaf in enumerate(leaves):
        summary.add(leaf + b"\n")
        other.add(leaf.replace(b"exact", b"other") if number == count // 2 else leaf)
    assert summary.root == root(leaves).hex()
    assert (summary.root == other.root) == (count == 0)


def test_an_archive_that_is_cut_off_is_damaged_where_it_ends(
    audit: Audit, archive: Path, tmp_path: Path
) -> None:
    cut = tmp_path / "cut-off.jsonl"
    cut.write_bytes(archive.read_bytes()[:-300])
    assert audit(tmp_path / "out.jsonl", of=cut) == 3
    *_, damaged, _ = lines(tmp_path / "out.jsonl")
    assert damaged["session"] == "c"
    assert damaged["verdict"] == "damaged"


def test_a_whole_session_that_is_missing_is_noticed(audit: Audit, archive: Path, tmp_path: Path) -> None:
    found = archive.read_bytes().splitlines(keepends=True)
    begins = [n for n, line in enumerate(found) if b'"type": "session"' in line]
    short = tmp_path / "short.jsonl"
    short.write_bytes(b"".join(found[: begins[-1]]))
    assert audit(tmp_path / "out.jsonl", of=short) == 3
    assert "ends after 3 of its 4 sessions" in lines(tmp_path / "out.jsonl")[-2]["why"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is not whole JSON"),
        (b'{"hello": 1}\n', "expected a file of niels-chat export"),
        (gzip.compress(b'{"format": "niels-gpt sessions"}' * 9, mtime=0)[:-20], "cannot be read"),
    ],
    ids=["empty", "foreign", "cut off"],
)  # fmt: skip
def test_what_is_no_archive_is_refused_in_one_line(
    audit: Audit, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, expected: str
) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    assert audit(tmp_path / "out.jsonl", of=path) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert expected in error


class FakeRay(ModuleType):
    """Runs tasks at once, in the order that they are waited for, and loses the first one's worker."""

    exceptions = SimpleNamespace(RayError=RuntimeError)

    def __init__(self) -> None:
        super().__init__("ray")
        self.ran: list[str] = []

    def init(self, **_: object) -> None:
        """Start."""

    def shutdown(self) -> None:
        """End."""

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 1.0}

    def remote(self, **_: object) -> Callable[[Any], Any]:
        return lambda work: SimpleNamespace(remote=lambda *arguments: partial(self._run, work, *arguments))

    def wait(self, waiting: list[Any], *, num_returns: int) -> tuple[list[Any], list[Any]]:
        return waiting[-num_returns:], waiting[:-num_returns]

    def get(self, task: Callable[[], Any]) -> Any:
        return task()

    def _run(self, work: Callable[[str, list[str]], Any], program: str, argv: list[str]) -> Any:
        self.ran.append(argv[-1])
        return work(program, argv)


def test_ray_runs_every_shard_and_merges_them(
    audit: Audit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit(tmp_path / "whole.jsonl")
    ray = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    assert audit(tmp_path / "ray.jsonl", "--ray") == 0
    assert (tmp_path / "ray.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert sorted(ray.ran) == ["0/4", "1/4", "2/4", "3/4"]


def test_without_ray_the_line_says_how_to_install_it(
    audit: Audit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert audit(tmp_path / "ray.jsonl", "--ray") == 1
    assert "pip install 'niels-gpt[ray]'" in capsys.readouterr().err
