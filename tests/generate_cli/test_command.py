"""`python -m niels_gpt.generate_cli`, as a user meets it."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from niels_gpt.cli.generate import command, input_file
from niels_gpt.cli.generate.options import parse_options
from niels_gpt.cli.jobs.journal import Journal
from niels_gpt.decoding import backend
from niels_gpt.generate_cli import main

PROMPTS = ["one", "the second prompt", "3", "and a fourth one"]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(f"  {prompt}" for prompt in PROMPTS[:2]) + "\n\n" + "\n".join(PROMPTS[2:]))
    return path


@pytest.fixture
def run(directory: Path, capsys: pytest.CaptureFixture):
    """Run the command on the small BDH; gives status, standard output and standard error."""

    def call(*words: object, model: Path = directory):
        status = main(["--model", str(model), *map(str, words)])
        out, err = capsys.readouterr()
        return status, out, err

    return call


def test_one_prompt_gives_prompt_and_continuation(run):
    status, out, err = run("--prompt", "To be", "--max_new_tokens", 6)
    assert (status, err) == (0, "")
    assert out.startswith("To be")
    assert out.endswith("\n")


@pytest.mark.parametrize("model", ["directory", "gpt_directory"])
def test_hyphens_and_underscores_are_the_same(run, request, model: str):
    path = request.getfixturevalue(model)
    one = run("--prompt", "a", "--max_new_tokens", 9, "--top_k=5", model=path)
    assert one == run("--prompt", "a", "--max-new-tokens", 9, "--top-k=5", model=path)


def test_a_stream_shows_the_same_text(run):
    flags = ("--prompt", "hello", "--max_new_tokens", 12)
    assert run(*flags, "--stream")[1] == run(*flags)[1]


def test_a_file_of_prompts_is_continued_in_order(run, prompts: Path):
    status, out, err = run("--prompts", prompts, "--max_new_tokens", 4, "--num_samples", 2, "--raw")
    assert status == 0
    assert [line[8:] for line in out.splitlines() if line.startswith("Prompt: ")] == [
        prompt for prompt in PROMPTS for _ in range(2)
    ]
    assert "8 of 8 replies" in err


def test_json_lines_hold_everything(run, prompts: Path, tmp_path: Path):
    output = tmp_path / "out.jsonl"
    flags = ("--prompts", prompts, "--output", output, "--num_return_sequences", 3, "--max_new_tokens", 5)
    assert run(*flags)[0] == 0
    records = [json.loads(line) for line in output.read_text("utf-8").splitlines()]
    assert [(record["prompt"], record["sample"]) for record in records] == [
        (prompt, sample) for prompt in PROMPTS for sample in range(3)
    ]
    assert all(len(record["token_ids"]) == 5 and record["finish"] == "length" for record in records)
    assert len({record["seed"] for record in records}) == 12
    assert not output.with_name("out.jsonl.resume").exists()


def test_batches_do_not_change_a_text(run, prompts: Path):
    flags = ("--prompts", prompts, "--max_new_tokens", 10, "--num_samples", 2, "--format", "jsonl")
    assert run(*flags, "--batch_size", 1)[1] == run(*flags, "--batch_size", 7)[1]


def test_more_samples_than_an_engine_lets_wait_by_default(run):
    flags = ("--prompt", "x", "--num_samples", 1100, "--batch_size", 8, "--max_new_tokens", 1)
    status, out, _ = run(*flags, "--format", "jsonl")
    assert (status, len(out.splitlines())) == (0, 1100)


def test_another_seed_changes_them(run, prompts: Path):
    flags = ("--prompts", prompts, "--max_new_tokens", 10)
    assert run(*flags, "--seed", 1)[1] != run(*flags, "--seed", 2)[1]


def test_token_ids_go_in_and_come_out(run):
    status, out, _ = run("--prompt_tokens", "1,2,3", "--max_new_tokens", 5, "--num_samples", 2)
    lines = out.splitlines()
    assert status == 0
    assert len(lines) == 2
    assert all(line.startswith("Generated tokens: [") and line.count(",") == 4 for line in lines)


def test_beams_find_the_same_every_time(run):
    flags = ("--prompt", "ab", "--num_beams", 4, "--num_samples", 2, "--max_new_tokens", 4)
    status, out, _ = run(*flags, "--format", "jsonl")
    assert status == 0
    assert [json.loads(line)["finish"] for line in out.splitlines()] == ["beam", "beam"]
    assert run(*flags, "--seed", 9, "--format", "jsonl")[1] == out


def test_no_new_tokens_gives_the_prompt(run):
    assert run("--prompt", "as it is", "--max_new_tokens", 0)[:2] == (0, "as it is\n")


def test_a_k_beyond_the_vocabulary_keeps_all(run):
    assert run("--prompt", "x", "--top_k", 10_000, "--max_new_tokens", 3)[0] == 0


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--prompt", ""], 1, "the prompt is empty"),
        (["--prompt_tokens", "1,999"], 1, "token id 999"),
        (["--prompts", "/nowhere"], 1, "cannot read --prompts '/nowhere'"),
        (["--prompt", "x", "--vocab_size", "10"], 1, "--vocab_size is 10"),
        (["--prompt", "x", "--output", "/nowhere/out"], 1, "'/nowhere/out': no such file or directory"),
        (["--prompt", "x", "--temperature", "-1"], 2, "temperature is -1.0"),
        (["--prompt", "x", "--temperature", "nan"], 2, "temperature is nan"),
        (["--prompt", "x", "--top_p", "2"], 2, "top_p is 2.0"),
        (["--prompt", "x", "--top_k", "-1"], 2, "top_k is -1"),
        (["--prompt", "x", "--stop", ""], 2, "--stop is empty"),
        (["--prompt", "x", "--num_beams", "2", "--num_samples", "3"], 2, "num_return_sequences is 3"),
    ],
)
def test_what_cannot_be_done_is_one_line(run, words: list[str], status: int, said: str):
    found, out, err = run(*words)
    assert (found, out) == (status, "")
    assert err.startswith("niels-generate: ")
    assert err.count("\n") == 1
    assert said in err


def test_an_input_without_an_end_is_refused(run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(input_file, "_LONGEST", 1 << 20)
    status, _, err = run("--prompts", "/dev/zero")
    assert (status, err) == (
        1, "niels-generate: --prompts '/dev/zero' has more than 1 MiB; give a regular file\n",
    )  # fmt: skip


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--prompt", "x", "--prompts", "y"],
        ["--prompt", "x", "--stream", "--num_samples", "2"],
        ["--prompt", "x", "--max_new_tokens", "-1"],
        ["--prompt", "x", "--max_new_tokens", "many"],
        ["--prompt", "x", "--wrong"],
        ["--prompt", "x", "--threads", "100000"],
        ["--prompt", "x", "--num_beams", "99999999"],
        ["--prompt_tokens", "one"],
        ["--prompts", "x", "--shard", "2/2", "--output", "y"],
        ["--prompts", "/dev/null", "--shard", "0/2", "--output", "y"],
        ["--prompt", "x", "--shard", "0/2"],
        ["--merge"],
    ],
)
def test_a_wrong_flag_is_one_line_and_status_2(run, words: list[str]):
    status, out, err = run(*words)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1


def test_a_prompt_beyond_the_window_is_an_error_before_anything_is_written(
    run, gpt_directory: Path, tmp_path: Path
):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(f"fine\n{'long' * 40}\n")
    status, out, err = run("--prompts", prompts, model=gpt_directory)
    assert (status, out) == (1, "")
    assert "line 2 has 160 tokens, which leaves no room for a reply in the context of 64" in err


@pytest.mark.parametrize("word", ["0", "none"])
def test_a_k_of_none_keeps_all(run, word: str):
    flags = ("--prompt", "x", "--max_new_tokens", 30, "--temperature", "3")
    assert run(*flags, "--top_k", word) == run(*flags, "--top_k", 256)
    assert run(*flags, "--top_k", word) != run(*flags, "--top_k", 1)


def test_lines_end_at_line_feeds_only_and_keep_their_numbers(run, tmp_path: Path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_bytes("\ufeffone\u2028still one\r\n\n \t\ntwo\x0cstill two\x85\n".encode())
    status, out, _ = run("--prompts", prompts, "--max_new_tokens", 1, "--format", "jsonl")
    records = [json.loads(line) for line in out.rstrip("\n").split("\n")]
    assert status == 0
    assert [(each["prompt_index"], each["prompt"]) for each in records] == [
        (0, "one\u2028still one"),
        (3, "two\x0cstill two"),
    ]


def test_a_line_that_is_not_utf_8_is_named(run, tmp_path: Path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_bytes(b"one\ncaf\xe9\n")
    status, out, err = run("--prompts", prompts)
    assert (status, out) == (1, "")
    assert "line 2 has the byte 0xe9" in err


def test_json_lines_are_texts_messages_or_ids(run, tmp_path: Path):
    prompts = tmp_path / "prompts.jsonl"
    messages = [{"role": "user", "content": "hi"}]
    lines = [{"prompt": "a\nb"}, {"messages": messages}, {"prompt_ids": [1, 2, 3]}]
    prompts.write_text("\n".join(map(json.dumps, lines)))
    status, out, _ = run("--prompts", prompts, "--max_new_tokens", 2, "--format", "jsonl", "--system", "")
    found = [json.loads(line)["prompt_ids"] for line in out.splitlines()]
    assert status == 0
    assert found == [list(b"a\nb"), list(b"user: hi\nassistant: "), [1, 2, 3]]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2 is not JSON"),
        ("[1]", "line 2 is a JSON list, expected an object"),
        ('{"text": "x"}', "line 2 has the keys 'text', expected one of 'prompt', 'messages', 'prompt_ids'"),
        ('{"prompt": 1}', "line 2: prompt is 1, expected a text"),
        ('{"messages": [{"role": "me", "content": "x"}]}', "line 2: messages are"),
        ('{"messages": [1]}', "line 2: messages are"),
        ('{"prompt_ids": [1, 256]}', "line 2 has the token id 256"),
        ('{"prompt_ids": [true]}', "line 2: prompt_ids is [True]"),
        ('{"prompt": ""}', "line 2 is empty"),
    ],
)
def test_a_wrong_json_line_is_an_error_before_anything_is_written(run, tmp_path: Path, line: str, said: str):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "x"}\n' + line + "\n")
    status, out, err = run("--prompts", prompts)
    assert (status, out) == (1, "")
    assert said in err
    assert err.count("\n") == 1


def test_a_fallback_to_torch_is_said_and_does_not_resume_an_output_of_the_kernels(
    run, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    flags = ("--prompts", prompts, "--output", tmp_path / "out.jsonl", "--max_new_tokens", 2)

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "add", interrupted)
        assert run(*flags)[0] == 130

    monkeypatch.setattr(backend, "why_unavailable", lambda **_: "there is no compiler")
    status, _, err = run(*flags)
    assert status == 1
    assert "torch answers instead" in err
    assert "unfinished output of another model" in err


def test_the_output_may_not_be_the_input(run, prompts: Path):
    before = prompts.read_bytes()
    status, _, err = run("--prompts", prompts, "--output", prompts, "--max_new_tokens", 1)
    assert status == 2
    assert "--output is the file of --prompts" in err
    assert prompts.read_bytes() == before


def test_a_finished_output_is_replaced_only_by_force(run, prompts: Path, tmp_path: Path):
    output = tmp_path / "out.jsonl"
    flags = ("--prompts", prompts, "--output", output, "--max_new_tokens", 2)
    status, _, err = run(*flags)
    assert status == 0
    assert f"Saved to {output}\n" in err
    before = output.read_bytes()
    status, _, err = run(*flags, "--seed", 5)
    assert status == 1
    assert "exists; replace it with --force" in err
    assert output.read_bytes() == before
    assert run(*flags, "--seed", 5, "--force")[0] == 0
    assert output.read_bytes() != before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_written_without_a_journal(run, prompts: Path, tmp_path: Path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as reader:
        found = reader.submit(pipe.read_text, "utf-8")
        status, _, _ = run("--prompts", prompts, "--output", pipe, "--max_new_tokens", 2, "--format", "jsonl")
        assert status == 0
        assert len(found.result(30).splitlines()) == 4
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("pipe")] == ["pipe"]


@pytest.mark.parametrize("flags", [(), ("--stream",), ("--format", "jsonl")])
def test_an_empty_reply_is_said(run, flags: tuple[str, ...]):
    every_other = ",".join(str(i) for i in range(256) if i != ord("a"))
    words = ("--prompt", "x", "--ban", every_other, "--stop", "a", *flags)
    status, _, err = run(*words)
    assert status == 0
    assert "reply is empty" in err


def test_a_bdh_has_no_window(run):
    assert run("--prompt", "x" * 3000, "--max_new_tokens", 2)[0] == 0


def test_the_flags_of_the_documents_are_there():
    words = (
        "--checkpoint_path m --prompt_tokens 1,2 --num_samples 5 --seed 42 --device cpu --vocab_size 10 "
        "--repetition_penalty 1.1 --min_p 0.1 --typical_p 0.9 --frequency_penalty 0.1 --presence_penalty 0.1"
    )
    options = parse_options(words.split())
    assert (options.max_new_tokens, options.temperature, options.top_k) == (100, 0.8, 50)
    assert (options.top_p, options.num_return_sequences, options.batch_size) == (None, 5, 32)


def test_interactive_is_the_chat_after_a_welcome(capsys: pytest.CaptureFixture):
    assert main(["--model", "/nowhere.pt", "--interactive"]) == 1
    assert "niels-chat: checkpoint '/nowhere.pt' does not exist" in capsys.readouterr().err


def test_a_welcome_names_model_and_size(tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "model.pt").write_bytes(b"x" * 3_400_000)
    found: list[list[str]] = []

    def chat(arguments: list[str]) -> int:
        found.append(arguments)
        return 0

    assert (
        command.run(["--model", str(tmp_path / "model.pt"), "--interactive", "--top_k", "0"], chat=chat) == 0
    )
    err = capsys.readouterr().err
    assert "Welcome to niels-generate" in err
    assert "model.pt (3.4 MB)" in err
    assert found[0][found[0].index("--top-k") + 1] == "none"
