"""Count the files that one line of chat and one token pass through.

`python tools/files_on_the_way.py [--list]` runs the chat on a pipe with the shipped checkpoint, sends one
line to warm up and then another, and records every file of this project whose functions run: from the second
line to its stored reply, and while the reply's text streams, until it is handed to the store. Compiled
kernels count as the file that calls them.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
from pathlib import Path
from types import FrameType

REPO = Path(__file__).resolve().parents[1]
PACKAGES = ("engine", "niels_gpt", "sessions")


class Recorder:
    """Collects the files of called functions while `into` is set; install it as a profile function."""

    def __init__(self, line: set[str], token: set[str]) -> None:
        self.line, self.token = line, token
        self.into: set[str] | None = None

    def __call__(self, frame: FrameType, event: str, _argument: object) -> None:
        """Note the file of a call."""
        if self.into is None or event != "call":
            return
        name = frame.f_code.co_filename
        if self.into is self.token and name.startswith(str(REPO / "sessions")):
            self.into = self.line  # the reply's last token is behind it
        self.into.add(name)


def project_files(names: set[str]) -> list[str]:
    """Return the paths of this project's files among the names, relative to the checkout."""
    found = (Path(name) for name in names if name.startswith(str(REPO)))
    relative = (path.relative_to(REPO) for path in found)
    return sorted(str(path) for path in relative if path.parts[0] in PACKAGES)


def main() -> int:
    """Print both counts."""
    parser = argparse.ArgumentParser(description="Count the files on the way of a line and of a token.")
    parser.add_argument("--list", action="store_true", help="name the files too")
    flags = parser.parse_args()
    sys.path.insert(0, str(REPO))
    from niels_gpt.chat_cli import run_chat_cli  # noqa: PLC0415 - after the path is set

    to_chat, chat_in = os.pipe()[::-1]
    chat_out, from_chat = os.pipe()
    screen = sys.stdout
    sys.stdin, sys.stdout = os.fdopen(chat_in, "r"), os.fdopen(from_chat, "w")
    line: set[str] = set()
    token: set[str] = set()
    recorder = Recorder(line, token)

    def drive() -> None:
        os.write(to_chat, b"hello\n")
        while not os.read(chat_out, 65536).endswith(b"\n"):
            pass
        recorder.into = line
        os.write(to_chat, b"what is a kv-cache good for?\n")
        os.read(chat_out, 65536)
        recorder.into = token
        while not os.read(chat_out, 65536).endswith(b"\n"):
            pass
        recorder.into = None
        os.close(to_chat)

    threading.setprofile(recorder)
    sys.setprofile(recorder)
    driver = threading.Thread(target=drive, daemon=True)
    driver.start()
    with tempfile.TemporaryDirectory() as folder:
        run_chat_cli(["--session", "a", "--quiet", "--store", str(Path(folder) / "s.db")])
    sys.setprofile(None)
    driver.join(10)
    sys.stdout = screen
    whole = project_files(line | token)
    for what, files in (("line", whole), ("token", project_files(token))):
        print(f"one {what}: {len(files)} files")
        if flags.list:
            print("".join(f"  {name}\n" for name in files), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
