"""The program as a process without a terminal: streams, statuses, and what it does not import."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from niels_gpt.chat_cli import run_chat_cli
from niels_gpt.cli.exit_codes import BROKEN_PIPE, INTERRUPTED, OK, TERMINATED

COMMAND = [sys.executable, "-m", "niels_gpt.chat_cli"]
HEAVY = {"torch", "sqlmodel", "sqlalchemy", "alembic", "tokenizers", "numpy", "engine", "sessions"}


def run(*flags: str, data: bytes = b"", code: str | None = None) -> subprocess.CompletedProcess[bytes]:
    words = COMMAND if code is None else [sys.executable, "-c", code]
    return subprocess.run(
        [*words, *flags],
        input=data,
        capture_output=True,
        timeout=50,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize("module", ["niels_gpt.chat_cli", "niels_gpt.chat.repl"])
def test_nothing_heavy_is_imported_before_the_prompt(module: str) -> None:
    done = run(code=f"import sys, {module}; print(*sys.modules)")
    names = {name.partition(".")[0] for name in done.stdout.decode().split()}
    assert "niels_gpt" in names
    assert not names & HEAVY


def test_help_needs_no_prompt_toolkit_either() -> None:
    code = "import sys, niels_gpt.chat_cli as c; c.run_chat_cli(['--help']); print(*sys.modules)"
    assert "prompt_toolkit" not in run(code=code).stdout.decode()


def test_a_chat_and_generated_text_on_compiled_kernels_import_neither_torch_nor_a_compiler() -> None:
    code = """
import sys
import niels_gpt.chat_cli as program
assert program.run_chat_cli(["-p", "hi", "--no-session", "--quiet"]) == 0
from niels_gpt.generate_cli import main
from niels_gpt.paths import SHIPPED_CHECKPOINT
words = ["--model", str(SHIPPED_CHECKPOINT), "--prompt", "hi", "--max_new_tokens", "3", "--device", "cpu"]
assert main(words) == 0
print(sorted({name.partition(".")[0] for name in sys.modules}))
"""
    done = run(code=code)
    reply, names = done.stdout.decode().splitlines()[0], done.stdout.decode().splitlines()[-1]
    assert (done.returncode, done.stderr) == (0, b"")
    assert reply
    assert "'llvmlite'" in names  # the kernels answered
    assert "'torch'" not in names
    assert "'numba'" not in names
    assert "'alembic'" not in names


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--ckpt", "/nowhere/x.pt"], "'/nowhere/x.pt' does not exist: give the path of a .pt or .gguf file"),
        (["--session", " a"], "' a' cannot be a session name"),
        (["--system-file", "/nowhere/s.txt"], "cannot read --system-file '/nowhere/s.txt'"),
    ],
)
def test_what_can_be_seen_without_loading_is_one_line_and_status_1(flags: list[str], said: str) -> None:
    done = run(*flags, data=b"hi\n")
    assert (done.returncode, done.stdout) == (1, b"")
    assert said in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1


@pytest.fixture
def run_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run the program in this process, on a line of input; gives status, replies and everything else."""

    def run(*flags: object) -> tuple[int, str, str]:
        (tmp_path / "input").write_text("hello\n")
        with (tmp_path / "input").open() as source:
            monkeypatch.setattr(sys, "stdin", source)
            status = run_chat_cli(list(map(str, flags)))
        return status, *capsys.readouterr()

    return run


def test_a_file_that_is_no_checkpoint_is_one_line_and_status_1(
    tmp_path: Path, run_here: Callable[..., tuple[int, str, str]]
) -> None:
    (tmp_path / "x.pt").write_bytes(b"PK\x03\x04 not really")
    status, out, err = run_here("--ckpt", tmp_path / "x.pt", "--store", tmp_path / "s.db")
    assert (status, out) == (1, "")
    *notices, error = err.splitlines()
    assert "is not an archive of tensors" in error
    # The store is opened meanwhile: it may be there before the file is refused, or not.
    assert notices in ([], [f"(created a new session store at {tmp_path / 's.db'})"])


def test_a_store_that_is_none_is_one_line_and_status_1(
    tmp_path: Path, byte_checkpoint: Path, run_here: Callable[..., tuple[int, str, str]]
) -> None:
    (tmp_path / "s.db").write_bytes(b"no database " * 100)
    status, out, err = run_here("--ckpt", byte_checkpoint, "--store", tmp_path / "s.db")
    assert (status, out) == (1, "")
    assert "s.db" in err
    assert err.count("\n") == 1
    assert (tmp_path / "s.db").read_bytes() == b"no database " * 100


@pytest.fixture
def answer(run_here: Callable[..., tuple[int, str, str]]) -> Callable[..., str]:
    """Run the program here, and return the replies."""

    def replies(checkpoint: Path, *flags: str) -> str:
        status, out, err = run_here("--ckpt", checkpoint, *flags)
        assert status == OK
        assert "resume with: niels-chat --session " in err
        return out

    return replies


def test_int8_weights_are_recorded_as_another_model(
    tmp_path: Path, byte_checkpoint: Path, answer: Callable[..., str]
) -> None:
    for weights in ("float32", "int8"):
        flags = ["--store", str(tmp_path / "s.db"), "--max-new-tokens", "3", "--session", weights]
        answer(byte_checkpoint, *flags, "--weights", weights)
    from sessions import open_store  # noqa: PLC0415

    with open_store(tmp_path / "s.db") as store:
        whole, less = (store.generations(store.session(name).id)[0] for name in ("float32", "int8"))
    assert (whole.environment["weights"], less.environment["weights"]) == ("float32", "int8")
    assert whole.checkpoint_id != less.checkpoint_id


@pytest.mark.parametrize("name", ["byte_checkpoint", "bpe_checkpoint"])
def test_the_same_line_gets_the_same_reply_with_and_without_the_cache_and_on_two_threads(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, answer: Callable[..., str]
) -> None:
    replies = [
        answer(
            request.getfixturevalue(name),
            "--store",
            str(tmp_path / f"{n}.db"),
            "--max-new-tokens",
            "9",
            *flag,
        )
        for n, flag in enumerate((["--no-kv-cache"], ["--device=cpu"], ["--threads=2"]))
    ]
    assert replies[0] == replies[1] == replies[2]
    assert replies[0].endswith("\n")
    assert len(replies[0]) > 1


def test_without_a_session_nothing_is_kept_and_nothing_can_be_resumed(
    tmp_path: Path, byte_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", None)
    flags = ["--ckpt", str(byte_checkpoint), "--store", str(tmp_path / "s.db"), "--max-new-tokens", "3"]
    assert run_chat_cli([*flags, "--no-session", "-p", "hello"]) == OK
    printed = capsys.readouterr()
    assert printed.out.endswith("\n")
    assert "resume" not in printed.err
    assert list(tmp_path.iterdir()) == [tmp_path / "tmp"]
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.fixture
def scripted_flags(tmp_path: Path) -> list[str]:
    """The program with a scripted model, which answers the second line without an end."""
    (tmp_path / "any.pt").touch()
    program = str(Path(__file__).with_name("scripted_program.py"))
    store = ["--store", str(tmp_path / "s.db")]
    return [sys.executable, program, "--ckpt", str(tmp_path / "any.pt"), *store, "--session", "a"]


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, TERMINATED)], ids=["int", "term"]
)
def test_a_signal_stores_what_was_said_and_has_its_status(
    tmp_path: Path, scripted_flags: list[str], number: int, status: int
) -> None:
    with subprocess.Popen(
        scripted_flags, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdin.write(b"hello\nsing\n")
        program.stdin.flush()
        read = b""
        while b"la9 " not in read:
            read += program.stdout.read1()
        program.send_signal(number)
        _, errors = program.communicate(timeout=30)
    assert program.returncode == status
    assert b"Traceback" not in errors
    from sessions import open_store  # noqa: PLC0415

    with open_store(tmp_path / "s.db") as store:
        session = store.session("a")
        reply = store.path(session.id)[-1]
        assert (reply.role, reply.status) == ("assistant", "cancelled")
        assert reply.content.startswith("la0 la1 ")
        assert store.pending(session.id) is None


def test_a_reader_that_goes_away_is_no_error_message(scripted_flags: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    with subprocess.Popen(
        scripted_flags, stdin=subprocess.PIPE, stdout=write, stderr=subprocess.PIPE
    ) as program:
        os.close(write)
        _, errors = program.communicate(b"hello\n", timeout=30)
    assert program.returncode == BROKEN_PIPE
    assert b"Traceback" not in errors
    assert b"Exception" not in errors


def test_no_collection_of_garbage_stops_the_chat_to_look_at_all_of_torch(byte_checkpoint: Path) -> None:
    gc.unfreeze()
    flags = ["--ckpt", str(byte_checkpoint), "--no-session", "--max-new-tokens", "1", "-p", "hello"]
    assert run_chat_cli(flags) == OK
    assert gc.get_freeze_count() > 50_000
