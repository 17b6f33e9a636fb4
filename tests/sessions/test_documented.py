"""docs/store.md names the faults, campaigns, errors and tables that exist."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

import sessions
from sessions import Checkpoint, Generation, Message, Session
from sessions.tables import schema

HERE = Path(__file__).parent
DOCUMENT = (HERE.parents[1] / "docs" / "store.md").read_text("utf-8")


def test_every_fault_in_the_table_names_a_test_that_exists():
    rows = re.findall(r"^\| [^|]+ \| [^|]+ \| `(test_\w+)` \|$", DOCUMENT, re.MULTILINE)
    written = {
        name for file in HERE.glob("test_*.py") for name in re.findall(r"def (test_\w+)", file.read_text())
    }
    assert len(rows) > 30
    assert set(rows) - written == set()


def test_every_error_that_the_document_names_is_one_of_the_store():
    named = set(re.findall(r"`((?:Store[A-Z]|Head|Reply|NotA|Schema|Invalid)\w+)`", DOCUMENT))
    assert {name for name in named if not hasattr(sessions, name)} == set()


def test_every_command_that_the_document_gives_is_there():
    programs = re.findall(r"python (?:-m (bench\.\w+)|(tests/\S+))", DOCUMENT)
    assert len(programs) == 5
    for module, path in programs:
        assert (HERE.parents[1] / (path or f"{module.replace('.', '/')}.py")).is_file()


def test_every_table_is_described():
    described = set(re.findall(r"^\| `(\w+)` \|", DOCUMENT, re.MULTILINE))
    assert described == set(schema.tables)


@pytest.mark.parametrize("record", [Session, Message, Generation, Checkpoint])
def test_a_record_has_the_columns_of_its_table(record):
    columns = set(schema.tables[record.__name__.lower()].columns.keys())
    assert {field.name for field in fields(record)} == columns - {"checksum"}
