"""Four programs append to one store at once: no error, no gap, no duplicate.

    python tests/sessions/writers_campaign.py --appends 2500 [--postgresql | --store PATH_OR_URL]

Half of each program's messages go to a session of its own, half to one that all share, where a program that
finds another's turn reads the session again. With --deferred SQLite's transactions begin without the write
lock: then some must fail, and the exit is 1.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from sessions import HeadMoved, ReplyPending, Store, open_store, sqlite_connection
from tests.sessions import postgres_server
from tests.sessions.scripted_talk import asked, finish, unscripted_replies

SHARED = "shared"


def say(store: Store, name: str, content: str) -> None:
    """Append a message and its reply; retry while another program is between the two."""
    while True:
        session = store.session(name)
        generation = asked(store, len(content))
        try:
            turn = store.begin_turn(
                session.id, content=content, expected_head=session.head_id, generation=generation
            )
        except (HeadMoved, ReplyPending):
            continue
        finish(store, turn)
        return


def write(place: str, writer: int, appends: int, start: multiprocessing.Barrier, errors) -> None:
    """Append so many messages: the work of one program."""
    try:
        with open_store(place) as store:
            start.wait(60)
            for number in range(appends // 2):
                say(store, SHARED if number % 2 else f"own {writer}", f"{writer} {number}")
    except BaseException as error:  # noqa: BLE001 - told to the one who started it
        errors.put(f"{type(error).__name__}: {error}")


def faults(store: Store, writers: int, appends: int) -> list[str]:
    """Return what is missing, double or out of order."""
    found = store.check() + [f"reply {number} is another one's" for number in unscripted_replies(store)]
    questions: list[str] = []
    for name in (SHARED, *(f"own {writer}" for writer in range(writers))):
        path = store.path(store.session(name).id)
        if [message.position for message in path] != list(range(len(path))):
            found.append(f"{name!r} has a gap")
        roles = [message.role for message in path]
        if roles != ["user", "assistant"] * (len(path) // 2):
            found.append(f"{name!r} has turns that interleave")
        questions += [message.content for message in path[::2]]
    expected = [f"{writer} {number}" for writer in range(writers) for number in range(appends // 2)]
    if sorted(questions) != sorted(expected):
        found.append(f"{len(questions)} questions are stored, {len(expected)} were asked")
    return found


@contextmanager
def empty_place(given: str | None, *, on_server: bool) -> Iterator[str]:
    """Yield the place of an empty store: a given one, one on our own server, or a new file."""
    if on_server:
        programs = postgres_server.programs()
        if programs is None:
            raise SystemExit("PostgreSQL's server is not installed (Debian: apt install postgresql)")
        with postgres_server.running(programs) as server, server.database() as name:
            yield server.url(name)
    elif given is not None:
        yield given
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield f"{folder}/sessions.db"


def main(arguments: list[str] | None = None) -> int:
    """Run the writers, print what is stored, and return 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--writers", type=int, default=4)
    parser.add_argument("--appends", type=int, default=2500, help="messages by each program, an even number")
    parser.add_argument("--store", help="an empty store (default: a new file)")
    parser.add_argument("--postgresql", action="store_true", help="on a server that is started for it")
    parser.add_argument("--deferred", action="store_true", help="the control: must fail")
    flags = parser.parse_args(arguments)
    if flags.deferred:
        sqlite_connection.WRITES = "not asked for"
    with empty_place(flags.store, on_server=flags.postgresql) as place:
        with open_store(place) as store:
            for name in (SHARED, *(f"own {writer}" for writer in range(flags.writers))):
                store.create_session(name, seed=1, system=None, settings={})
        processes = multiprocessing.get_context("fork")
        start, errors = processes.Barrier(flags.writers), processes.SimpleQueue()
        writers = [
            processes.Process(target=write, args=(place, writer, flags.appends, start, errors))
            for writer in range(flags.writers)
        ]
        for writer in writers:
            writer.start()
        problems: list[str] = []
        for writer in writers:
            writer.join()
        while not errors.empty():
            problems.append(errors.get())
        with open_store(place) as store:
            problems += faults(store, flags.writers, flags.appends)
            messages = sum(summary.messages for summary in store.sessions())
    print(f"{messages:,} messages appended by {flags.writers} programs, {len(problems)} problems")
    for problem in problems[:5]:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
