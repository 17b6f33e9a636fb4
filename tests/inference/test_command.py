"""`python -m niels_gpt.generate_cli`, as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from niels_gpt.cli.generate.options import parse_options
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
    status, out, err = run("--prompts", prompts, "--max_new_tokens", 4, "--num_samples", 2)
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
        (["--prompt", "x", "--output", "/nowhere/out"], 1, "cannot write"),
        (["--prompt", "x", "--temperature", "-1"], 2, "temperature is -1.0"),
        (["--prompt", "x", "--temperature", "nan"], 2, "temperature is nan"),
        (["--prompt", "x", "--top_p", "2"], 2, "top_p is 2.0"),
        (["--prompt", "x", "--top_k", "0"], 2, "top_k is 0"),
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


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--prompt", "x", "--prompts", "y"],
        ["--prompt", "x", "--stream", "--num_samples", "2"],
        ["--prompt", "x", "--max_new_tokens", "-1"],
        ["--prompt", "x", "--max_new_tokens", "many"],
        ["--prompt", "x", "--wrong"],
        ["--prompt_tokens", "one"],
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
    assert "prompt 2 has 160 tokens, which leaves no room for a reply in the context of 64" in err


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


def test_interactive_is_the_chat(capsys: pytest.CaptureFixture):
    assert main(["--model", "/nowhere.pt", "--interactive"]) == 1
    assert "niels-chat: checkpoint '/nowhere.pt' does not exist" in capsys.readouterr().err
