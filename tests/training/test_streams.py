from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from niels_gpt.data import DIALOGUE_DELIM, split_primer_dialogues, wikitext
from niels_gpt.data.streams import StreamBuildConfig, build_sources

Configure = Callable[..., StreamBuildConfig]
PRIMER = DIALOGUE_DELIM.join(f"user: what is {n}?\nassistant: {n} it is.\n" for n in range(200))


def offline(*_: str) -> Any:
    raise ConnectionError("no network")


def online(text: str = "a line of an article ") -> Callable[..., Any]:
    return lambda *_: {split: [{"text": text * 30}] * 3 for split in ("train", "validation", "test")}


@pytest.fixture
def configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Return a maker of configurations over two notes and a primer; wikitext is there."""
    monkeypatch.setattr(wikitext, "load_dataset", online())
    (tmp_path / "notes").mkdir()
    for name in ("one", "two"):
        (tmp_path / "notes" / f"{name}.md").write_text(f"note {name} " * 100, encoding="utf-8")
    (tmp_path / "primer.txt").write_text(PRIMER, encoding="utf-8")

    def make(**changes: Any) -> StreamBuildConfig:
        places = {
            "roam_root": tmp_path / "notes",
            "primer_path": tmp_path / "primer.txt",
            "cache_dir": tmp_path / "cache",
        }
        return StreamBuildConfig(**places | changes)

    return make


def only(name: str) -> dict[str, tuple[str, ...]]:
    return {"enabled_sources": (name,), "required_sources": (name,)}


def test_every_source_gives_bytes_to_learn_and_bytes_held_out(configure: Configure) -> None:
    train, val = build_sources(configure())
    assert set(train) == set(val) == {"wiki", "roam", "primer"}
    assert bytes(train["wiki"]) == "\n\n".join(["a line of an article " * 30] * 3).encode()
    assert {bytes(train["roam"])[:8], bytes(val["roam"])[:8]} == {b"note one", b"note two"}
    sides = split_primer_dialogues(PRIMER, seed=42)
    assert (bytes(train["primer"]), bytes(val["primer"])) == tuple(side.encode() for side in sides)


def test_a_primer_whose_dialogues_follow_directly_ends_each_reply_with_a_tag(configure: Configure) -> None:
    train, _ = build_sources(configure(dialogue_joint=""))
    assert b"<dialogue>" not in bytes(train["primer"])
    assert bytes(train["primer"]).count(b" it is.\nuser: ") == 179


def test_the_cache_has_a_stream_and_its_description_for_each_split(configure: Configure) -> None:
    cfg = configure()
    build_sources(cfg)
    names = {path.name for path in Path(cfg.cache_dir).iterdir()}
    expected = {f"{s}_{split}{end}" for s in ("wiki", "roam", "primer") for split in ("train", "val")
                for end in (".bin", ".meta.json")}  # fmt: skip
    assert names == expected


def test_a_stream_that_still_holds_is_not_written_again(configure: Configure) -> None:
    cfg = configure()
    build_sources(cfg)
    binaries = sorted(Path(cfg.cache_dir).glob("*.bin"))
    written = [path.stat().st_ino for path in binaries]
    build_sources(cfg)
    assert [path.stat().st_ino for path in binaries] == written
    build_sources(configure(force_rebuild=True))
    assert not set(written) & {path.stat().st_ino for path in binaries}


def test_changed_texts_and_changed_settings_are_read_again(configure: Configure, tmp_path: Path) -> None:
    before, _ = build_sources(configure(**only("primer")))
    other_seed, _ = build_sources(configure(**only("primer"), seed=7))
    assert bytes(before["primer"]) != bytes(other_seed["primer"])
    (tmp_path / "primer.txt").write_text(PRIMER.replace("it is", "is it"), encoding="utf-8")
    changed, _ = build_sources(configure(**only("primer")))
    assert b"is it" in bytes(changed["primer"])


def test_a_changed_wikitext_is_read_again(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    build_sources(configure())
    monkeypatch.setattr(wikitext, "load_dataset", online("another line "))
    train, _ = build_sources(configure())
    assert bytes(train["wiki"]).startswith(b"another")


def test_a_stream_cut_short_is_made_again(configure: Configure) -> None:
    cfg = configure(**only("primer"))
    whole = bytes(build_sources(cfg)[0]["primer"])
    path = Path(cfg.cache_dir) / "primer_train.bin"
    path.write_bytes(whole[:-1])
    assert bytes(build_sources(cfg)[0]["primer"]) == whole


def test_a_stream_without_its_description_is_made_again(configure: Configure) -> None:
    cfg = configure(**only("primer"))
    whole = bytes(build_sources(cfg)[0]["primer"])
    (Path(cfg.cache_dir) / "primer_train.meta.json").write_text("{half", encoding="utf-8")
    assert bytes(build_sources(cfg)[0]["primer"]) == whole
    meta = json.loads((Path(cfg.cache_dir) / "primer_train.meta.json").read_text(encoding="utf-8"))
    assert meta["bytes"] == len(whole)


def test_wikitext_once_read_serves_offline(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    before, _ = build_sources(configure())
    monkeypatch.setattr(wikitext, "load_dataset", offline)
    said: list[str] = []
    after, _ = build_sources(configure(), note=said.append)
    assert bytes(after["wiki"]) == bytes(before["wiki"])
    assert "'wiki' cannot be reached" in said[0]


def test_wikitext_that_never_was_read_says_what_to_do(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wikitext, "load_dataset", offline)
    with pytest.raises(RuntimeError, match=r"'wiki'.*no network.*\[wiki\].*folders.*enabled_sources"):
        build_sources(configure())


def test_an_optional_source_that_is_missing_is_left_out(configure: Configure, tmp_path: Path) -> None:
    said: list[str] = []
    cfg = configure(roam_root=tmp_path / "nowhere", required_sources=("wiki",))
    train, val = build_sources(cfg, note=said.append)
    assert set(train) == set(val) == {"wiki", "primer"}
    assert "without 'roam'" in "".join(said)


def test_missing_sources_may_be_allowed(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wikitext, "load_dataset", offline)
    assert set(build_sources(configure(allow_missing_sources=True))[0]) == {"roam", "primer"}


@pytest.mark.parametrize(("name", "said"), [("roam", "'roam'.*nowhere"), ("primer", "'primer'.*primer_path")])
def test_a_required_source_that_is_missing_is_named(
    configure: Configure, tmp_path: Path, name: str, said: str
) -> None:
    nowhere = tmp_path / "nowhere"
    with pytest.raises(RuntimeError, match=said):
        build_sources(configure(roam_root=nowhere, primer_path=nowhere, **only(name)))


@pytest.mark.parametrize("name", ["wiki", "roam", "primer"])
def test_a_required_source_without_held_out_text_is_refused(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    long = "user: hi\nassistant: hello\n" * 20
    monkeypatch.setattr(
        wikitext, "load_dataset", lambda *_: {"train": [{"text": long}], "validation": [], "test": []}
    )
    (tmp_path / "notes" / "one.md").unlink()
    (tmp_path / "primer.txt").write_text(long, encoding="utf-8")
    with pytest.raises(RuntimeError, match=f"'{name}' has an empty validation set"):
        build_sources(configure(**only(name)))


def test_no_source_at_all_is_an_error(configure: Configure, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    cfg = configure(primer_path=nowhere, enabled_sources=("primer",), required_sources=())
    with pytest.raises(RuntimeError, match="none of the sources primer"):
        build_sources(cfg)


def test_a_folder_of_texts_is_a_source_by_its_name(configure: Configure, tmp_path: Path) -> None:
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "one.txt").write_text("it was a dark night " * 50, encoding="utf-8")
    cfg = configure(folders={"books": tmp_path / "books"}, **only("books"))
    train, val = build_sources(cfg)
    assert bytes(train["books"]).startswith(b"it was")
    assert val == {}  # a single file is learned


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"enabled_sources": ("primer",), "required_sources": ("wiki",)}, "required_sources names 'wiki'"),
        ({"enabled_sources": ("wikipedia",)}, "'wikipedia' is unknown"),
        ({"folders": {"wiki": "."}}, "folder is named 'wiki'"),
        ({"primer_val_frac": 1.0}, "primer_val_frac is 1.0"),
    ],
)
def test_a_configuration_that_contradicts_itself_is_refused(
    configure: Configure, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        build_sources(configure(**changes))


def test_a_stream_too_short_for_a_window_is_refused(configure: Configure, tmp_path: Path) -> None:
    (tmp_path / "primer.txt").write_text("user: hi\nassistant: hello\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"train stream of 'primer' has 26 bytes.*T=256"):
        build_sources(configure(**only("primer")))
