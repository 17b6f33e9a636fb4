"""Hold the files of deploy/ to the program: what they copy exists, what they run parses, shards add up."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from niels_gpt.cli.generate.options import parse_options
from niels_gpt.cli.parser import OneLineParser
from niels_gpt.cli.subcommands import audit
from niels_gpt.paths import REPO_ROOT

DEPLOY = REPO_ROOT / "deploy"
INSTRUCTIONS = {"FROM", "WORKDIR", "COPY", "RUN", "ENV", "VOLUME", "USER", "ENTRYPOINT", "CMD"}


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions and their arguments; a line that ends in a backslash continues."""
    text = (DEPLOY / "Dockerfile").read_text("utf-8")
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines)]


def job(name: str) -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "kubernetes" / name).read_text("utf-8"))


def test_the_image_copies_what_exists_and_all_that_the_wheel_needs() -> None:
    found = instructions()
    assert {name for name, _ in found} <= INSTRUCTIONS
    copied: set[str] = set()
    for name, rest in found:
        words = shlex.split(rest)
        if name == "COPY" and not words[0].startswith("--from"):
            copied |= set(words[:-1])
    assert [path for path in sorted(copied) if not (REPO_ROOT / path).exists()] == []
    project = tomllib.loads((REPO_ROOT / "pyproject.toml").read_text("utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert set(wheel["packages"]) | set(wheel["force-include"]) <= copied


def test_the_image_installs_the_build_of_torch_without_cuda_first() -> None:
    [install] = [rest for name, rest in instructions() if name == "RUN" and "pip install" in rest]
    assert install.index("whl/cpu torch") < install.index("'.[serve")


@pytest.mark.parametrize("name", ["generate.yaml", "audit.yaml"])
def test_a_job_runs_every_shard_once_and_may_be_restarted(name: str) -> None:
    found = job(name)
    spec = found["spec"]
    assert (found["apiVersion"], found["kind"], spec["completionMode"]) == ("batch/v1", "Job", "Indexed")
    container = spec["template"]["spec"]["containers"][0]
    [script] = container["args"]
    [count] = re.findall(r"\$JOB_COMPLETION_INDEX/(\d+)", script)
    assert int(count) == spec["completions"] == spec["parallelism"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in spec["template"]["spec"]["volumes"]}


def command(name: str, program: str) -> list[str]:
    """The arguments of a program in a job's script, for its second shard."""
    [script] = job(name)["spec"]["template"]["spec"]["containers"][0]["args"]
    text = script.replace("$JOB_COMPLETION_INDEX", "1").replace("$MODEL", "/job/model")
    words = shlex.split(text.split(";")[0])
    return words[words.index(program) + 1 :]


def test_the_commands_of_the_jobs_parse(tmp_path: Path) -> None:
    flags = command("generate.yaml", "niels-generate")
    prompts = tmp_path / "prompts.jsonl"
    prompts.touch()
    options = parse_options([str(prompts) if word == "/job/prompts.jsonl" else word for word in flags])
    assert (options.shard, options.batch_size, options.threads) == ((1, 16), 64, 1)

    parser = OneLineParser(prog="niels-chat audit")
    audit.add_arguments(parser)
    [subcommand, *rest] = command("audit.yaml", "niels-chat")
    found = parser.parse_args(rest)
    assert (subcommand, found.shard, str(found.ckpt)) == ("audit", (1, 16), "/job/model")
