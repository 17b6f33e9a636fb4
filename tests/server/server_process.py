"""The server as a process of its own, and a client that reads raw bytes from it."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

READY = re.compile(rb"http://[^:]+:(\d+)/")
PATIENCE = 120  # seconds until a server whose kernels are not compiled yet must answer


class Client:
    """Sends requests to a server on this machine and reads raw bytes."""

    port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextmanager
    def request(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> Iterator[http.client.HTTPResponse]:
        """Send a request; the answer is read as it comes."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        data = None
        if body is not None:
            data = body if isinstance(body, bytes | Iterator) else json.dumps(body).encode()
            sent.setdefault("content-type", "application/json")
        try:
            connection.request(method, path, data, sent)
            yield connection.getresponse()
        finally:
            connection.close()

    def json(
        self, method: str, path: str, body: Any = None, status: int | None = None, **headers: str
    ) -> Any:
        """Send a request and return the whole answer, whose status must be 2xx or the given one."""
        with self.request(method, path, body, **headers) as answer:
            text = answer.read()
            fits = answer.status == status if status is not None else 200 <= answer.status < 300
            assert fits, (answer.status, text)
            return json.loads(text)


class ServerProcess(Client):
    """`niels-serve` on a port that the system chose."""

    def __init__(self, folder: Path, *flags: str) -> None:
        store = str(folder / "sessions.db")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "niels_gpt.serve_cli", "--port", "0", "--store", store, *flags],
            stderr=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1", "NIELS_CHAT_CONFIG": str(folder / "none.toml")},
        )
        assert self.process.stderr is not None
        said = b""
        for line in self.process.stderr:
            said += line
            found = READY.search(line)
            if found:
                self.port = int(found[1])
                return
        raise AssertionError(f"the server did not start: {said.decode()}")

    def kill(self) -> None:
        """End it without a chance to tidy up."""
        self.process.send_signal(signal.SIGKILL)
        self.wait()

    def wait(self) -> int:
        """Wait for its end and return the status."""
        status = self.process.wait(PATIENCE)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return status

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.kill()


def frames_of(stream: bytes) -> list[bytes]:
    """Return the whole frames of a stream."""
    return [frame + b"\n\n" for frame in stream.split(b"\n\n")[:-1]]


def number_of(frame: bytes) -> int:
    """Return the number of a frame."""
    found = re.match(rb"id: \S+:(\d+)\n", frame)
    assert found is not None, frame
    return int(found[1])


def chat(content: str = "who is niels?", **values: Any) -> dict[str, Any]:
    """Return the body of a chat completion."""
    return {"messages": [{"role": "user", "content": content}], "seed": 7, "max_tokens": 24, **values}
