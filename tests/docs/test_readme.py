"""What the README says of commands, flags and files is what is there."""

from __future__ import annotations

import re
from pathlib import Path

from niels_gpt.chat.commands.registry import COMMANDS
from niels_gpt.cli.options import build_parser
from niels_gpt.cli.subcommands import SUBCOMMANDS

REPO = Path(__file__).resolve().parents[2]
README = (REPO / "README.md").read_text("utf-8")
# What it says of this program: the table beside others names their commands too.
OURS = re.sub(r"^## Next to other chats.*?(?=^## )", "", README, flags=re.DOTALL | re.MULTILINE)


def flags_of_the_chat() -> set[str]:
    return {
        name for action in build_parser()._actions for name in action.option_strings if name.startswith("--")
    }


def test_the_flags_that_the_table_names_are_the_chats():
    table = "\n".join(line for line in README.splitlines() if line.startswith("| `--"))
    named = set(re.findall(r"--[a-z-]+", table))
    assert len(named) > 10
    assert named - flags_of_the_chat() == set()


def test_the_commands_that_it_names_are_the_chats():
    named = set(re.findall(r"`(/[a-z_]+)`", OURS))
    assert len(named) > 8
    assert named - set(COMMANDS) == set()


def test_the_subcommands_that_it_names_are_there():
    named = set(re.findall(r"^niels-chat ([a-z]+)", README, re.MULTILINE))
    assert len(named) > 2
    assert named - set(SUBCOMMANDS) == set()


def test_every_path_of_the_folder_tree_exists():
    tree = re.search(r"```\nengine/.*?```", README, re.DOTALL)
    assert tree is not None
    parent, missing = Path(), []
    for line in tree[0].splitlines()[1:-1]:
        name, nested = line.split()[0], line.startswith("  ")
        path = (parent if nested else Path()) / name
        parent = parent if nested else path
        if not (REPO / path).is_dir():
            missing.append(str(path))
    assert missing == []


def test_every_link_leads_to_a_file():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("https://")]
    assert len(links) > 10
    assert [link for link in links if not (REPO / link).exists()] == []


def test_every_python_command_names_a_module_or_file_that_is_there():
    modules = re.findall(r"python -m ([a-z0-9_.]+)", OURS)
    files = re.findall(r"python ([a-z_/]+\.py)", OURS)
    assert len(modules) > 5
    assert [name for name in files if not (REPO / name).exists()] == []
    places = {name: REPO / name.replace(".", "/") for name in modules}
    assert [
        n for n, p in places.items() if not p.with_suffix(".py").exists() and not (p / "__main__.py").exists()
    ] == []


def test_the_example_is_the_one_that_is_run():
    example = (REPO / "examples" / "engine_fake_model.py").read_text("utf-8")
    shown = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert shown is not None
    # Whole, so that it can be pasted: all but the docstring of the module.
    assert shown[1] == example.partition('"""\n\n')[2]


def test_the_make_targets_exist():
    makefile = (REPO / "Makefile").read_text("utf-8")
    assert [
        t
        for t in re.findall(r"(?:^|`)make ([a-z]+)", README, re.MULTILINE)
        if not re.search(rf"^{t}:", makefile, re.MULTILINE)
    ] == []
