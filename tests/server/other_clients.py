"""Clients that are too heavy to install for every test run, against a server: litellm, llm and lm-eval.

    python -m venv others
    others/bin/pip install litellm llm 'lm-eval[api]'
    python tests/server/other_clients.py --python others/bin/python

lm-eval computes the log-likelihoods of a small task through `/v1/completions` with `echo`; what it finds must
be what the model itself says of the same tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from niels_gpt.conversation.opening import open_model
from niels_gpt.conversation.options import ChatOptions
from niels_gpt.decoding.rescoring import logits_rows
from niels_gpt.server.logprobs import token_logprobs
from tests.server.server_process import ServerProcess

LITELLM = """
import litellm, sys
answers = [
    litellm.completion(
        model="openai/niels-gpt", api_base=sys.argv[1] + "/v1", api_key="unused", seed=7,
        messages=[{"role": "user", "content": "Who is niels?"}],
    ).choices[0].message.content
    for _ in range(2)
]
stream = litellm.completion(
    model="openai/niels-gpt", api_base=sys.argv[1] + "/v1", api_key="unused", seed=7, stream=True,
    messages=[{"role": "user", "content": "Who is niels?"}],
)
answers.append("".join(chunk.choices[0].delta.content or "" for chunk in stream))
assert len(set(answers)) == 1, answers
print(answers[0])
"""
LINES = (
    "niels is the person on whose website this tiny chatbot speaks.",
    "attention mixes what tokens know.",
)
TASK = """
task: niels_lines
dataset_path: json
dataset_kwargs:
  data_files: {file}
test_split: train
output_type: loglikelihood
doc_to_text: "{{{{context}}}}"
doc_to_target: "{{{{continuation}}}}"
target_delimiter: ""
metric_list:
  - metric: perplexity
"""


def main() -> int:
    """Run the three clients; 0 if all of them got what they should."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", type=Path, required=True, help="an interpreter that has the clients")
    python = parser.parse_args().python.absolute()
    with tempfile.TemporaryDirectory() as name, ServerProcess(Path(name)) as server:
        folder = Path(name)
        run([python, "-c", LITELLM, server.url], folder)
        (folder / "extra-openai-models.yaml").write_text(
            f"- model_id: niels\n  model_name: niels-gpt\n  api_base: {server.url}/v1\n"
        )
        told = run([python, "-m", "llm", "-m", "niels", "-o", "seed", "7", "Who is niels?"], folder)
        assert "niels" in told, told
        evaluate(python, server.url, folder)
    print("litellm, llm and lm-eval: as expected")
    return 0


def evaluate(python: Path, url: str, folder: Path) -> None:
    """Let lm-eval score two lines, and compare with the model itself."""
    run([sys.executable, "-m", "niels_gpt.model.hf", "export", str(ChatOptions().checkpoint), "hf"], folder)
    data = folder / "lines.jsonl"
    cuts = [line.index(" ", len(line) // 2) for line in LINES]
    pairs = [(line[:cut], line[cut:]) for line, cut in zip(LINES, cuts, strict=True)]
    data.write_text("".join(json.dumps({"context": a, "continuation": b}) + "\n" for a, b in pairs))
    (folder / "task.yaml").write_text(TASK.format(file=data))
    arguments = f"model=niels-gpt,base_url={url}/v1/completions,tokenizer={folder / 'hf'},num_concurrent=1"
    flags = ["--model", "local-completions", "--model_args", arguments, "--tasks", "niels_lines"]
    flags += ["--include_path", str(folder), "--output_path", str(folder / "out"), "--log_samples"]
    run([python, "-m", "lm_eval", *flags], folder)
    samples = next((folder / "out").rglob("samples_*.jsonl")).read_text().splitlines()
    found = [json.loads(line)["filtered_resps"][0][0] for line in samples]
    model = open_model(ChatOptions())
    for (context, continuation), logprob in zip(pairs, found, strict=True):
        encode = model.tokenizer.encode_ids
        ids, whole = encode(context), encode(context + continuation)
        assert whole[: len(ids)] == ids, "the line is cut inside of a token"
        rows = logits_rows(model.decoder, ids, whole[len(ids) :])
        expected = sum(
            token_logprobs(token_id, row, 0).logprob
            for token_id, row in zip(whole[len(ids) :], rows, strict=True)
        )
        assert abs(float(logprob) - expected) < 1e-4, (logprob, expected)
    model.close()


def run(command: list[object], folder: Path) -> str:
    """Run a program and return what it printed."""
    environment = {
        **os.environ,
        "LLM_USER_PATH": str(folder), "OPENAI_API_KEY": "unused", "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "cache"), "NO_PROXY": "127.0.0.1",
    }  # fmt: skip
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    print(done.stdout.strip()[-400:])
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
