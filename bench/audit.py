"""Record an archive of replies, audit it in every way, and change it to see that each change is found.

    python -m bench.audit [--replies 10000] [--tampers 1000] [--shards 4] [--kills 3] [--ray] [--seed 0]

Prints replies and tokens per second of one process, and whether shards, a killed and resumed run and (with
--ray) a Ray cluster of two workers write its bytes. Then it changes one value in each of many sessions: a
token, a setting, a seed or a message as they stand, or a token with all digests made to fit. The exit status
is 1 if outputs differ, a reply of the true archive is not exact, or a change is missed.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio

from bench.measure import facts, table
from engine import Engine
from niels_gpt.chat_cli import run_chat_cli
from niels_gpt.cli.jobs.archive import open_archive
from niels_gpt.conversation.conversation import Conversation
from niels_gpt.conversation.listener import Listener
from niels_gpt.conversation.opening import open_model
from niels_gpt.conversation.options import ChatOptions
from niels_gpt.conversation.session import ConversationSession
from niels_gpt.paths import REPO_ROOT, SHIPPED_CHECKPOINT
from sessions import SessionArchive, Store, open_store
from sessions.formats import Limits
from sessions.formats.json_reader import line_fields
from sessions.formats.native import read_session
from sessions.formats.native import write as write_archive
from sessions.integrity import digest_of_generation, digest_of_message, verified

TURNS = 2  # of a session
SIDE_BY_SIDE = 32
KINDS = ("token", "setting", "seed", "message", "forged token")
SETTINGS: dict[str, Any] = {"temperature": 0.9, "max_new_tokens": 48}


def record(archive: Path, replies: int, folder: Path) -> None:
    """Record replies of the shipped model, two to a session, and export the sessions."""
    lines = (REPO_ROOT / "data/heldout.jsonl").read_text("utf-8").splitlines()
    questions = [json.loads(line)["messages"][-1]["content"] for line in lines]
    options = ChatOptions(checkpoint=SHIPPED_CHECKPOINT, checkpoint_given=True, threads=1)
    model = open_model(options)

    async def one(store: Store, engine: Engine[Any, Any], number: int, places: anyio.CapacityLimiter) -> None:
        async with places:
            session = ConversationSession(store, name=f"s{number}", settings={**SETTINGS, "seed": number})
            await session.open()
            conversation = Conversation(session=session, model=model, engine=engine)
            for turn in range(min(TURNS, replies - number * TURNS)):
                await conversation.send(questions[(number * TURNS + turn) % len(questions)], Listener())

    decoder: Any = model.decoder

    async def run() -> None:
        places = anyio.CapacityLimiter(SIDE_BY_SIDE)
        async with (
            Engine(decoder, max_batch=SIDE_BY_SIDE) as engine,
            anyio.create_task_group() as tasks,
        ):
            for number in range(-(-replies // TURNS)):
                tasks.start_soon(one, store, engine, number, places)

    with open_store(folder / "sessions.db") as store:
        anyio.run(run)
        found = [store.export_session(each.id) for each in store.sessions()]
        with archive.open("w", encoding="utf-8") as file:
            write_archive(found, file)
    model.close()


def audit(archive: Path, output: Path, *more: object) -> int:
    """Audit in this process."""
    flags = ["--output", output, "--ckpt", SHIPPED_CHECKPOINT, "--threads", 1, *more]
    return run_chat_cli(["audit", str(archive), *map(str, flags)])


def sharded(archive: Path, output: Path, count: int, rng: random.Random) -> bytes:
    """Return the merged output of shards, made in a random order."""
    for number in rng.sample(range(count), count):
        audit(archive, output, "--shard", f"{number}/{count}")
    audit(archive, output, "--merge")
    return output.read_bytes()


def killed(archive: Path, output: Path, kills: int, seconds: float, rng: random.Random) -> bytes:
    """Return the output of a process that is killed at random moments and started again."""
    command = [sys.executable, "-m", "niels_gpt.chat_cli", "audit", str(archive), "--output", str(output)]
    command += ["--ckpt", str(SHIPPED_CHECKPOINT), "--threads", "1"]
    for kill in range(kills + 1):
        child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            child.wait(None if kill == kills else 2 + rng.random() * seconds)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    return output.read_bytes()


def _read(archive: Path) -> list[SessionArchive]:
    limits = Limits()
    return [
        read_session(line_fields(line, where=f"line {number}", limits=limits) for number, line in each.lines)
        for each in open_archive(archive).sessions()
    ]


def tampered(session: SessionArchive, kind: str, rng: random.Random) -> SessionArchive:
    """Return a session with one value changed."""
    generation = rng.choice([each for each in session.generations if each.reply_id is not None])
    reply = next(each for each in session.messages if each.id == generation.reply_id)
    if kind in {"token", "forged token"}:
        ids = list(reply.token_ids or ())
        at = rng.randrange(len(ids))
        ids[at] = (ids[at] + 1) % 256
        changed = _with_message(session, replace(reply, token_ids=tuple(ids)))
        return forged(changed) if kind == "forged token" else changed
    if kind == "message":
        user = next(each for each in session.messages if each.id == generation.user_message_id)
        at = rng.randrange(len(user.content))
        return _with_message(session, replace(user, content=user.content[:at] + "~" + user.content[at + 1 :]))
    if kind == "seed":
        other = replace(generation, seed=generation.seed ^ (1 << rng.randrange(62)))
    else:
        other = replace(generation, sampling={**generation.sampling, "temperature": 0.91})
    swapped = [other if each.id == generation.id else each for each in session.generations]
    return replace(session, generations=tuple(swapped))


def _with_message(session: SessionArchive, message: Any) -> SessionArchive:
    messages = [message if each.id == message.id else each for each in session.messages]
    return replace(session, messages=tuple(messages))


def forged(session: SessionArchive) -> SessionArchive:
    """Return a session whose digests all follow from its values."""
    digests: dict[int, str] = {}
    messages, generations = [], []
    for message in session.messages:
        parent = None if message.parent_id is None else digests[message.parent_id]
        digests[message.id] = digest_of_message(message, parent)
        messages.append(replace(message, digest=digests[message.id]))
    fingerprints = {each.id: each.fingerprint for each in session.checkpoints}
    for each in session.generations:
        digest = None
        if each.reply_id is not None:
            digest = digest_of_generation(
                each,
                user=digests[each.user_message_id],
                reply=digests[each.reply_id],
                fingerprint=fingerprints[each.checkpoint_id],
            )
        generations.append(replace(each, digest=digest))
    head = session.session.head_id
    digest = verified(head, messages, generations, session.checkpoints).digest
    return replace(session, messages=tuple(messages), generations=tuple(generations), digest=digest)


def tampers(archive: Path, folder: Path, count: int, rng: random.Random) -> list[list[str]]:
    """Change one value in each of `count` sessions, audit them, and count what was found, by kind."""
    found = _read(archive)
    changed = [(kind := rng.choice(KINDS), tampered(rng.choice(found), kind, rng)) for _ in range(count)]
    named = [
        replace(each, session=replace(each.session, name=f"t{n}")) for n, (_, each) in enumerate(changed)
    ]
    path, output = folder / "tampered.jsonl", folder / "tampered.out.jsonl"
    with path.open("w", encoding="utf-8") as file:
        write_archive(named, file)
    audit(path, output)
    wrong: dict[str, str] = {}
    for line in output.read_text("utf-8").splitlines()[:-1]:
        value = json.loads(line)
        if value["verdict"] in {"damaged", "diverged"}:
            wrong[value["session"]] = value.get("why") or value["divergence"]["place"]
    made, caught = Counter(kind for kind, _ in changed), Counter[str]()
    located = Counter[str]()
    for number, (kind, _) in enumerate(changed):
        where = wrong.get(f"t{number}")
        caught[kind] += where is not None
        located[kind] += where == "token" if kind == "forged token" else "line" in (where or "")
    return [[kind, *map(str, (made[kind], caught[kind], located[kind]))] for kind in KINDS]


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main(argv: Sequence[str] | None = None) -> int:
    """Run the campaign; 1 if any output differs or any change is missed."""
    parser = argparse.ArgumentParser(prog="bench.audit", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--replies", type=int, default=10_000)
    add("--tampers", type=int, default=1_000)
    add("--shards", type=int, default=4)
    add("--kills", type=int, default=3)
    add("--ray", action="store_true", help="also on a Ray cluster of two workers on this machine")
    add("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    rng = random.Random(options.seed)
    print("\n".join(f"{name}: {value}" for name, value in facts().items()))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        archive, whole = folder / "archive.jsonl", folder / "whole.jsonl"
        seconds = _timed(lambda: record(archive, options.replies, folder))
        print(f"\n{options.replies:,} replies recorded in {seconds:.0f} s")
        seconds = _timed(lambda: audit(archive, whole))
        expected = whole.read_bytes()
        summary = json.loads(expected.splitlines()[-1])
        print(f"audited by one process in {seconds:.0f} s: {summary['verdicts']}")
        rows: list[tuple[str, bool]] = []
        cut = sharded(archive, folder / "shards.jsonl", options.shards, rng)
        rows.append((f"{options.shards} shards", cut == expected))
        packed = folder / "packed.jsonl.gz"
        with archive.open("rb") as plain, gzip.open(packed, "wb") as file:
            shutil.copyfileobj(plain, file)
        audit(packed, folder / "gz.jsonl")
        rows.append(("a compressed archive", (folder / "gz.jsonl").read_bytes() == expected))
        again = killed(archive, folder / "killed.jsonl", options.kills, seconds, rng)
        rows.append((f"{options.kills} kills", again == expected))
        if options.ray:
            audit(archive, folder / "ray.jsonl", "--ray")
            rows.append(("Ray", (folder / "ray.jsonl").read_bytes() == expected))
        said = {True: "equal", False: "DIFFERENT"}
        print(table(["output of", "compared with one process"], [[what, said[same]] for what, same in rows]))
        changes = tampers(archive, folder, options.tampers, rng)
        print(table(["changed", "times", "found", "at its place"], changes))
    is_exact = summary["verdicts"] == {"exact": options.replies}
    is_found = all(row[1] == row[2] == row[3] for row in changes)
    return int(not (is_exact and is_found and all(same for _, same in rows)))


if __name__ == "__main__":
    sys.exit(main())
