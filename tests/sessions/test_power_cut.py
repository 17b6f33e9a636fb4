"""The disk of the power-cut campaign loses what a disk may lose, and nothing else."""

from __future__ import annotations

import os
import random

import pytest

from tests.sessions.power_cut import Disk

KINDS = ("none", "all", "some", "torn")
FILE = "/d/f"


@pytest.fixture
def disk():
    disk = Disk("/d")
    disk.do(["O", "3", str(os.O_CREAT), FILE], b"")
    disk.do(["O", "4", "0", "/d"], b"")
    return disk


def cuts(disk, kinds=KINDS):
    chance = random.Random(1)
    return [disk.after_power_cut(kind, chance) for kind in kinds for _ in range(20)]


def test_what_was_synced_with_its_name_is_always_there(disk):
    disk.do(["W", "3", "0", "5"], b"hello")
    disk.do(["S", "3"], b"")
    disk.do(["S", "4"], b"")
    assert all(state == {FILE: b"hello"} for state in cuts(disk))


def test_a_name_that_was_not_synced_may_be_gone_whatever_its_file_holds(disk):
    disk.do(["W", "3", "0", "5"], b"hello")
    disk.do(["S", "3"], b"")
    assert {} in cuts(disk)
    assert {FILE: b"hello"} in cuts(disk)


def test_writes_that_were_not_synced_survive_in_any_part(disk):
    disk.do(["S", "4"], b"")
    disk.do(["W", "3", "0", "2"], b"ab")
    disk.do(["W", "3", "2", "2"], b"cd")
    found = {state[FILE] for state in cuts(disk)}
    assert {b"", b"abcd", b"ab", b"\0\0cd"} <= found


def test_a_torn_write_ends_at_a_sector(disk):
    disk.do(["S", "4"], b"")
    disk.do(["W", "3", "0", "1024"], b"x" * 1024)
    assert {len(state[FILE]) for state in cuts(disk, ("torn",))} <= {0, 512, 1024}


def test_a_removed_name_comes_back_until_its_folder_is_synced(disk):
    disk.do(["S", "4"], b"")
    disk.do(["U", FILE], b"")
    assert {FILE: b""} in cuts(disk)
    disk.do(["S", "4"], b"")
    assert all(state == {} for state in cuts(disk))


def test_a_file_keeps_its_bytes_under_another_name(disk):
    disk.do(["W", "3", "0", "5"], b"hello")
    disk.do(["L", FILE, "/d/g"], b"")
    disk.do(["R", FILE, "/d/h"], b"")
    disk.do(["T", "3", "2"], b"")
    assert disk.after_power_cut("all", random.Random(1)) == {"/d/g": b"he", "/d/h": b"he"}
