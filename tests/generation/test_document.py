"""docs/generation.md says what is there."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path

from niels_gpt.cli.generate.options import build_parser
from niels_gpt.model.delegates import ModelMethods
from niels_gpt.sampling import Sampling

REPO = Path(__file__).resolve().parents[2]
DOCUMENT = (REPO / "docs" / "generation.md").read_text("utf-8")


def test_every_flag_in_it_is_a_flag():
    flags = {name for action in build_parser()._actions for name in action.option_strings}
    shown = re.findall(r"niels-generate (.*)", DOCUMENT)
    named = {flag for line in shown for flag in re.findall(r"--[a-z_]+", line)}
    assert len(named) > 8
    assert named <= flags


def test_every_setting_of_sampling_is_in_its_table():
    named = set(re.findall(r"^\| `([a-z_]+)` \|", DOCUMENT, re.MULTILINE))
    assert {field.name for field in fields(Sampling)} <= named


def test_the_signatures_are_those_of_the_methods():
    for name, said in re.findall(r"^\| `(\w+)\((.*?)\)` \|", DOCUMENT, re.MULTILINE):
        parameters = inspect.signature(getattr(ModelMethods, name)).parameters.values()
        shown = [
            p.name if p.default is p.empty else f"{p.name}={p.default!r}".replace("'", '"')
            for p in parameters
            if p.name != "self" and p.kind is p.POSITIONAL_OR_KEYWORD
        ]
        assert said.replace(", **kwargs", "") == ", ".join(shown), name


def test_every_link_leads_to_a_file():
    links = re.findall(r"\]\(([^)#]+)\)", DOCUMENT)
    assert [link for link in links if "://" not in link and not (REPO / "docs" / link).exists()] == []
