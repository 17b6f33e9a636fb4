"""kill -9 at random moments of streaming replies: every client's bytes are those of an undisturbed run.

    python tests/server/kill_campaign.py --kills 1000
    python tests/server/kill_campaign.py --kills 200 --postgresql

Each round several clients stream at once, of every form there is. The server is killed after a random number
of frames and started again on the same store, and each client continues behind its last event, maybe to be
cut off again, until its stream ends. Then the frames must be numbered without a gap or a repetition, and
must be those of the same request on a server that nobody killed. With --other-seed that one gets
another seed: the comparison must then fail for every stream, and the exit is 1.

With --postgresql two servers share one store, and clients continue at the other server at once.

Servers are forked from a process that has loaded the model, so that a start takes milliseconds.
"""

from __future__ import annotations

import argparse
import http.client
import os
import random
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from niels_gpt.conversation.opening import open_model
from niels_gpt.conversation.options import ChatOptions
from niels_gpt.server.options import ServeOptions
from niels_gpt.server.run import run_server
from sessions import open_store
from tests.server.server_process import Client, chat, frames_of, number_of
from tests.sessions import postgres_server

OWN = re.compile(rb"(chatcmpl-|resp_|msg_)[0-9a-f]{24}|\"created(_at)?\":\d+|\"reply\":\"?\d+\"?|^id: \d+")
"""What differs between two replies to one request: ids and moments."""
TOKENS = 80
LONG = {"temperature": 1.5, "logit_bias": {"3": -100}, "max_tokens": TOKENS}


class ForkedServer(Client):
    """A server in a child of this process."""

    def __init__(self, store: str | Path, model: Any) -> None:
        self._store = store
        self._model = model
        self.start()

    def start(self) -> None:
        reading, writing = os.pipe()
        self.child = os.fork()
        if self.child == 0:
            os.close(reading)
            with open_store(self._store) as store:
                options = ServeOptions(port=0, chat=ChatOptions(checkpoint_given=True))
                run_server(options, store, self._model, announce=lambda url: os.write(writing, url.encode()))
            os._exit(0)
        os.close(writing)
        url = os.read(reading, 1000).decode()
        os.close(reading)
        self.port = int(url.rstrip("/").rpartition(":")[2])

    def kill(self) -> None:
        os.kill(self.child, signal.SIGKILL)
        os.waitpid(self.child, 0)


def bodies(seed: int) -> list[tuple[str, dict[str, Any]]]:
    """Return one request of each form."""
    chat_body = chat(**LONG, seed=seed, stream=True, stream_options={"include_usage": True})
    return [
        ("/v1/chat/completions", chat_body),
        ("/v1/chat/completions", {**chat_body, "n": 2}),
        ("/v1/chat/completions", {**chat_body, "logprobs": True, "top_logprobs": 2}),
        (
            "/v1/responses",
            {"input": "who is niels?", "seed": seed, "stream": True, "temperature": 1.5,
             "logit_bias": {"3": -100}, "max_output_tokens": TOKENS},
        ),
    ]  # fmt: skip


@dataclass
class Reader:
    """A client that streams one reply, over as many connections as it takes."""

    path: str
    body: dict[str, Any]
    frames: list[bytes] = field(default_factory=list)
    connections: int = 0
    whole: bool = False

    def read(self, server: Client) -> None:
        """Read until the stream ends or the connection does."""
        self.connections += 1
        try:
            if not self.frames:
                request = server.request("POST", self.path, self.body)
            else:
                last = self.frames[-1].removeprefix(b"id: ").split(b"\n")[0].decode()
                reply = last.rpartition(":")[0]
                request = server.request("GET", f"/api/replies/{reply}/events", Last_Event_ID=last)
            with request as answer:
                assert answer.status == 200, answer.read()
                rest = b""
                while piece := answer.read1():
                    *frames, rest = (rest + piece).split(b"\n\n")
                    self.frames += [frame + b"\n\n" for frame in frames]
        except (OSError, http.client.HTTPException):
            return
        last = self.frames[-1]
        self.whole = b"[DONE]" in last or b"event: response.incomplete" in last


def compared(frames: list[bytes]) -> list[bytes]:
    """Return the frames without what is their reply's own."""
    return [OWN.sub(b"", frame) for frame in frames]


@contextmanager
def shared_store(*, is_shared: bool) -> Iterator[str | None]:
    """Yield the URL of a new PostgreSQL store, or nothing."""
    programs = postgres_server.programs()
    if not is_shared:
        yield None
    elif programs is None:
        raise SystemExit("PostgreSQL's server is not installed (Debian: apt install postgresql)")
    else:
        with postgres_server.running(programs) as running, running.database() as database:
            yield running.url(database)


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument(
        "--seconds", type=float, default=1e9, help="end sooner, after the round that runs then"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--other-seed", action="store_true", help="control: compare with another seed")
    parser.add_argument("--postgresql", action="store_true", help="two servers on one PostgreSQL store")
    return parser.parse_args()


def read_through_kills(
    readers: list[Reader], servers: list[ForkedServer], chance: random.Random, *, most: int
) -> int:
    """Read to the end of every stream while servers are killed, at most so often; return the kills."""
    kills = 0
    while not all(reader.whole for reader in readers):
        left = [reader for reader in readers if not reader.whole]
        before = sum(len(reader.frames) for reader in left)
        threads = [threading.Thread(target=reader.read, args=(servers[0],)) for reader in left]
        for thread in threads:
            thread.start()
        if kills < most:
            wanted = before + chance.randrange(1, TOKENS * len(left))
            while sum(len(reader.frames) for reader in left) < wanted and any(
                thread.is_alive() for thread in threads
            ):
                time.sleep(0.0005)
            servers[0].kill()
            kills += 1
            servers.reverse()  # where there are two, the clients continue at the other one
            servers[-1].start()
        for thread in threads:
            thread.join()
    return kills


def main() -> int:
    """Run the campaign; 0 if every stream was as it should be."""
    options = parse_options()
    chance = random.Random(options.seed)
    model = open_model(ChatOptions(threads=1))
    began, kills, streams, wrong, cut = time.monotonic(), 0, 0, 0, 0
    with tempfile.TemporaryDirectory() as folder, shared_store(is_shared=options.postgresql) as shared:
        undisturbed = ForkedServer(Path(folder) / "undisturbed.db", model)
        place = shared or Path(folder) / "killed.db"
        servers = [ForkedServer(place, model) for _ in range(2 if shared else 1)]
        while kills < options.kills and time.monotonic() < began + options.seconds:
            seed = chance.randrange(10**6)
            readers = [Reader(path, body) for path, body in bodies(seed)]
            kills += read_through_kills(readers, servers, chance, most=options.kills - kills)
            expected = [Reader(path, body) for path, body in bodies(seed + options.other_seed)]
            for reader, reference in zip(readers, expected, strict=True):
                reference.read(undisturbed)
                streams += 1
                cut += reader.connections > 1
                numbered = [number_of(frame) for frame in reader.frames] == list(range(len(reader.frames)))
                if not numbered or compared(reader.frames) != compared(reference.frames):
                    wrong += 1
                    assert frames_of(b"".join(reader.frames)) == reader.frames
        for server in (*servers, undisturbed):
            server.kill()
    seconds = time.monotonic() - began
    print(
        f"{kills} kills in {seconds:.0f} s: {streams} streams, {cut} of them cut off at least once, "
        f"{wrong} with other bytes than undisturbed"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
