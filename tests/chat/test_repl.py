"""The REPL on a scripted keyboard and no screen, with a scripted model on a real store."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from niels_gpt.chat.repl import Repl
from niels_gpt.conversation.errors import LoadFailed, SessionTrouble
from niels_gpt.conversation.options import ChatOptions
from niels_gpt.conversation.workspace import Workspace
from niels_gpt.terminal.render import Screen
from sessions import open_store
from tests.chat.typist import CTRL_C, CTRL_D, ESC, Typist, Watched

WELCOME = (
    "niels-gpt: niels-gpt.pt answers, on this machine; every conversation is kept\n"
    "type a message and Enter; /help lists the commands, Ctrl-D leaves\n"
)


def test_a_line_is_answered_and_ctrl_d_says_how_to_resume(typist: Typist, scripted: Any) -> None:
    shown = typist.type("hi\r", scripted(["hel", "lo"]), later=(("hello\n", CTRL_D),))
    first, *rest = shown.splitlines()
    assert first.strip("()") == "new session 'a'"  # a remark if the line came before the session was there
    assert rest == ["hello", "resume with: niels-chat --session a"]
    assert typist.messages() == [("user", "hi"), ("assistant", "hello")]


def test_leaving_without_a_message_leaves_nothing_behind(typist: Typist, scripted: Any) -> None:
    assert typist.type("/exit\r", scripted(), session=None) == WELCOME
    with open_store(typist.path) as store:
        assert store.sessions() == []


def test_commands_are_answered_and_never_reach_the_model(typist: Typist, scripted: Any) -> None:
    model = scripted(["ok"])
    shown = typist.type(
        "/temp 0\r/temp\r/temp x\r/tmep\r//temp\r", model, later=(("ok\n", "/exit\r"),)
    ).splitlines()
    assert shown[1] == "temperature: 0 (greedy), was 0.9"
    assert shown[2] == "temperature: 0 (greedy) (a number from 0 to 3.4e38, usually up to 2)"
    assert shown[3].startswith("/temperature: 'x' is not allowed")
    assert shown[4].startswith("unknown command /tmep: did you mean /temp?")
    assert [content for role, content in typist.messages() if role == "user"] == ["/temp"]
    assert model.requests[0].sampling.temperature == 0.0


@pytest.mark.parametrize("key", [CTRL_C, ESC])
def test_a_key_stops_the_reply_and_the_chat_goes_on(typist: Typist, scripted: Any, key: str) -> None:
    model = scripted(itertools.repeat("la "), ["fine"], context_length=10**6)
    later = (("la la la", key), ("(stopped)", "thanks\r"), ("fine\n", CTRL_D))
    shown = typist.type("sing\r", model, later=later)
    assert "la \n(stopped)\nfine\n" in shown
    assert typist.statuses() == ["complete", "cancelled", "complete", "complete"]


def test_ctrl_c_at_the_prompt_drops_the_line_and_stays(typist: Typist, scripted: Any) -> None:
    hint = "(Ctrl-D or /exit leaves)\n"
    shown = typist.type("never sent" + CTRL_C + "hi\r", scripted(["hello"]), later=(("hello\n", CTRL_D),))
    assert hint not in shown
    assert hint in typist.type(CTRL_C, scripted(), session="b", later=((hint, CTRL_D),))
    assert typist.messages() == [("user", "hi"), ("assistant", "hello")]


def test_ctrl_c_while_the_model_loads_sends_nothing(typist: Typist, scripted: Any) -> None:
    may_load = threading.Event()

    def load(options: ChatOptions) -> Any:
        assert may_load.wait(20)
        return scripted()

    out = Watched()
    workspace = Workspace(
        ChatOptions(session="a"), open_store=lambda _: open_store(typist.path), load_model=load
    )
    with create_pipe_input() as keyboard:
        # Ctrl-c can only be meant for the line once that is being worked on.
        out.when = [
            ("loading the model", lambda: keyboard.send_text(CTRL_C)),
            ("(not sent; Up brings it back)", lambda: keyboard.send_text(CTRL_D)),
        ]
        keyboard.send_text("hi\r")
        screen = Screen(out, out, styled=True, columns=lambda: 80)
        repl = Repl(workspace, screen, history=InMemoryHistory(), keyboard=keyboard, display=DummyOutput())
        asyncio.run(asyncio.wait_for(repl.run(), 20))
        may_load.set()
        for thread in threading.enumerate():
            if thread.name.startswith("loader"):
                thread.join(20)
        workspace.close()
    with open_store(typist.path) as store:
        assert store.sessions() == []


def test_a_resumed_session_shows_its_last_exchange_and_goes_on(typist: Typist, scripted: Any) -> None:
    typist.type("one\r", scripted(["first"]), later=(("first\n", CTRL_D),))
    shown = typist.type("", scripted(["second"]), later=(("first\n", "two\r"), ("second\n", CTRL_D)))
    assert shown.startswith("resumed 'a': 1 turn\n> one\nfirst\nsecond\n")
    assert [content for _, content in typist.messages()] == ["one", "first", "two", "second"]


def test_a_session_name_is_quoted_in_the_way_back(typist: Typist, scripted: Any) -> None:
    shown = typist.type("hi\r", scripted(), session="it's me", store="/x y", later=(("ok\n", CTRL_D),))
    assert shown.splitlines()[-1] == """resume with: niels-chat --session 'it'"'"'s me' --store '/x y'"""


def test_a_failed_reply_is_one_line_and_the_chat_goes_on(typist: Typist, scripted: Any) -> None:
    model = scripted(["oh", "!no"], ["fine"])
    shown = typist.type("one\r", model, later=(("kept", "two\r"), ("fine\n", CTRL_D)))
    assert (
        "oh\nthe reply failed (RuntimeError: !no); your message is kept: /retry, or send another\nfine\n"
        in shown
    )


def test_a_hostile_reply_is_shown_harmless_and_stored_as_it_was(typist: Typist, scripted: Any) -> None:
    shown = typist.type("hi\r", scripted(["a\x1b", "[2J", "\r", "b"]), later=(("b\n", CTRL_D),))
    assert "a␛[2J␍b\n" in shown
    assert "\x1b" not in shown
    assert typist.messages()[1] == ("assistant", "a\x1b[2J\rb")


def test_a_checkpoint_that_does_not_load_ends_the_chat_while_the_prompt_waits(typist: Typist) -> None:
    with pytest.raises(LoadFailed, match="damaged"):
        typist.type("half a li", LoadFailed("damaged"))


def test_an_unforeseen_error_while_loading_is_told_with_its_kind(typist: Typist) -> None:
    with pytest.raises(LoadFailed, match="cannot start: RuntimeError: no such operator"):
        typist.type("hi\r", RuntimeError("no such operator"))


def test_the_words_help_quit_and_exit_alone_are_commands(typist: Typist, scripted: Any) -> None:
    shown = typist.type("help\rquit\r", scripted())
    assert "/retry" in shown
    assert "resume" not in shown.splitlines()[-1]


def test_another_session_is_resumed_and_this_one_renamed(typist: Typist, scripted: Any) -> None:
    typist.type("one\r", scripted(["first"]), later=(("first\n", CTRL_D),))
    typist.type("two\r", scripted(["second"]), session="b", later=(("second\n", CTRL_D),))
    shown = typist.type(
        "/resume nowhere\r/resume a\r/rename c\r/sessions\rmore\r",
        scripted(["third"]),
        session="b",
        later=(("third\n", CTRL_D),),
    )
    assert "there is no session 'nowhere': /sessions lists them\n" in shown
    assert "resumed 'a': 1 turn\n> one\nfirst\n" in shown
    assert "* c  1 turn  one\n" in shown
    assert shown.splitlines()[-1] == "resume with: niels-chat --session c"
    assert [content for _, content in typist.messages("c")] == ["one", "first", "more", "third"]
    assert [content for _, content in typist.messages("b")] == ["two", "second"]


def test_another_checkpoint_goes_on_with_the_same_conversation(
    typist: Typist, scripted: Any, tmp_path: Path
) -> None:
    (tmp_path / "other.pt").touch()
    models = iter([scripted(["first"]), scripted(["second"], fingerprint="f2")])
    kept = []

    def load() -> Any:
        kept.append(next(models))
        return kept[-1]

    shown = typist.type(
        f"one\r/model {tmp_path}/none.pt\r/model {tmp_path}/other.pt\rtwo\r",
        load,
        later=(("second\n", CTRL_D),),
    )
    assert "none.pt' does not exist" in shown
    assert [content for _, content in typist.messages()] == ["one", "first", "two", "second"]
    with open_store(typist.path) as store:
        made = store.generations(store.session("a").id)
    assert made[0].checkpoint_id != made[1].checkpoint_id
    assert all(model.closed for model in kept)


def test_a_stopped_reply_can_be_kept_from_the_model(typist: Typist, scripted: Any) -> None:
    model = scripted(itertools.repeat("la "), ["fine"], context_length=10**6)
    later = (("la la la", CTRL_C), ("(stopped; the model will not see", "thanks\r"), ("fine\n", CTRL_D))
    typist.type("/keep_stopped off\rsing\r", model, later=later)
    assert typist.statuses()[1] == "cancelled"
    # One number a word and one a message: the system prompt, "thanks" and the roles.
    assert len(model.requests[1].prompt_ids) == len(model.requests[0].prompt_ids)


def test_statistics_tell_tokens_and_context(typist: Typist, scripted: Any) -> None:
    shown = typist.type("/stats\rhi\r/stats\r", scripted(), later=(("last reply", CTRL_D),))
    assert "since start no reply\n" in shown
    assert "since start 1 reply, 2 tokens\n" in shown
    assert " of 1000 tokens\n" in shown


def test_a_session_is_exported_to_a_file_that_is_not_there_yet(
    typist: Typist, scripted: Any, tmp_path: Path
) -> None:
    path = tmp_path / "chat.md"
    shown = typist.type(
        f"hi\r/export {path}\r/export {path}\r", scripted(), later=(("already exists", CTRL_D),)
    )
    assert f"wrote session 'a' to '{path}'\n" in shown
    assert "hi" in path.read_text(encoding="utf-8")


def test_a_mark_turns_until_the_first_token_and_not_longer(typist: Typist, scripted: Any) -> None:
    seen = threading.Event()

    def thoughtful() -> Iterator[str]:
        assert seen.wait(20)
        yield "well"

    later = (("thinking", seen.set), ("well\n", CTRL_D))
    shown = typist.type("hi\r", scripted(thoughtful()), later=later, columns=lambda: 60)
    assert "\r\x1b[Kwell\n" in shown
    assert "thinking" not in shown.partition("well")[2]


def test_markdown_is_rendered_when_asked(typist: Typist, scripted: Any) -> None:
    model = scripted(["so **b", "old**"], ["**plain**"])
    later = (("old", "/markdown off\r"), ("markdown: off", "again\r"), ("plain**", CTRL_D))
    shown = typist.type("hi\r", model, later=later, markdown=True, columns=lambda: 60)
    assert "so \x1b[0;1mbold" in shown
    assert "**plain**" in shown
    assert typist.messages()[1] == ("assistant", "so **bold**")


def test_earlier_replies_have_the_styles_of_new_ones(typist: Typist, scripted: Any) -> None:
    typist.type("hi\r", scripted(["so **bold**"]), later=(("bold", CTRL_D),))
    shown = typist.type("/history\r/exit\r", scripted(), markdown=True, columns=lambda: 60)
    assert shown.count("so \x1b[0;1mbold") == 2  # the recap, and the history
    plain = typist.type("/history\r/exit\r", scripted(), columns=lambda: 60)
    assert plain.count("so **bold**") == 2


@pytest.mark.parametrize("columns", [30, 60])
def test_versions_are_listed_within_the_terminal(typist: Typist, scripted: Any, columns: int) -> None:
    model = scripted(["words " * 20], ["other words " * 20])
    later = (("words \n", ""), ("  1  >", CTRL_D))
    shown = typist.type(
        f"{'question ' * 12}\r/edit {'answer ' * 12}\r/alt\r", model, later=later, columns=lambda: columns
    )
    listed = [line for line in shown.splitlines() if line.lstrip("* ")[:2] in {"1 ", "2 "}]
    assert len(listed) == 2
    assert all(len(line) < columns for line in listed)


def test_without_a_session_nothing_is_said_about_resuming(typist: Typist, scripted: Any) -> None:
    shown = typist.type("hi\r", scripted(), session=None, ephemeral=True, later=(("ok\n", CTRL_D),))
    assert shown == WELCOME.replace("every conversation", "nothing") + "ok\n"


def test_a_line_typed_before_the_session_was_there_stands_above_its_reply(
    typist: Typist, scripted: Any
) -> None:
    typist.type("one\r", scripted(["first"]), later=(("first\n", CTRL_D),))
    shown = typist.type("two\r", scripted(["second"]), later=(("second\n", CTRL_D),))
    assert shown.startswith("resumed 'a': 1 turn\n> one\nfirst\n> two\nsecond\n")


def test_lines_typed_before_the_first_prompt_are_sent(typist: Typist, scripted: Any) -> None:
    shown = typist.type(
        "", scripted(["first"], ["second"]), typed=b"one\rtwo\r", later=(("second\n", CTRL_D),)
    )
    assert "first\nsecond\n" in shown
    assert [content for _, content in typist.messages()] == ["one", "first", "two", "second"]


def test_another_checkpoint_that_answers_is_named(typist: Typist, scripted: Any, tmp_path: Path) -> None:
    typist.type("one\r", scripted(["first"]), later=(("first\n", CTRL_D),))
    shown = typist.type("two\r", scripted(["second"], fingerprint="f2"), later=(("second\n", CTRL_D),))
    assert "(the replies so far are by x.pt; niels-gpt.pt answers now, and /model x.pt goes back)\n" in shown
    again = typist.type("three\r", scripted(["third"], fingerprint="f2"), later=(("third\n", CTRL_D),))
    assert "the replies so far" not in again


def test_another_form_of_the_weights_that_answers_is_named(typist: Typist, scripted: Any) -> None:
    typist.type("one\r", scripted(["first"]), later=(("first\n", CTRL_D),))
    changed = scripted(["second"], fingerprint="f2", environment={"weights": "int8"})
    shown = typist.type("two\r", changed, later=(("second\n", CTRL_D),))
    assert "(the replies so far are by x.pt; niels-gpt.pt (int8 weights) answers now)\n" in shown


def test_another_device_that_answers_is_named_although_the_checkpoint_is_the_same(
    typist: Typist, scripted: Any
) -> None:
    elsewhere = scripted(["first"], environment={"device": "cuda", "path": "torch"})
    typist.type("one\r", elsewhere, later=(("first\n", CTRL_D),))
    shown = typist.type("two\r", scripted(["second"]), later=(("second\n", CTRL_D),))
    assert "(the replies so far are by niels-gpt.pt (cuda); niels-gpt.pt answers now)\n" in shown


def test_versions_are_compared_word_by_word(typist: Typist, scripted: Any) -> None:
    model = scripted(["the red fox"], ["the blue fox"], ["the blue fox"])
    lines = "one\r/diff\r/retry\r/diff\r/diff 2 1\r/retry\r/diff\r/diff 1 9\r"
    shown = typist.type(lines, model, later=(("got '1 9'", CTRL_D),))
    assert "there is only one version of this turn to compare; /retry makes another\n" in shown
    assert "from version 1 to version 2:\nthe[- red-]{+ blue+} fox\n" in shown
    assert "from version 2 to version 1:\nthe[- blue-]{+ red+} fox\n" in shown
    assert "versions 2 and 3 have the same text\n" in shown


def test_the_first_code_block_is_what_copy_code_takes(
    typist: Typist, scripted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[str] = []
    monkeypatch.setattr(
        "niels_gpt.terminal.clipboard.copy_text", lambda text, _: copied.append(text) or "somehow"
    )
    reply = "so:\n```py\nx = 1\n```\nand\n```\ny\n```\n"
    shown = typist.type("one\r/copy\r/copy code\r", scripted([reply]), later=(("6 characters", CTRL_D),))
    assert copied == [reply, "x = 1\n"]
    assert "copied 6 characters somehow\n" in shown


def test_sessions_are_searched_and_deleted_in_the_chat(typist: Typist, scripted: Any) -> None:
    typist.type("the red fox\r", scripted(["ran"]), session="old", later=(("ran\n", CTRL_D),))
    lines = "hi\r/search red fox\r/delete a\r/delete old\r/search red fox\r/delete none\r"
    shown = typist.type(lines, scripted(), later=(("'none'", CTRL_D),))
    assert "old, user, " in shown
    assert ": the red fox\nuse /resume NAME to open one\n" in shown
    assert "you are in this session: /resume another one first\n" in shown
    assert "archived 'old'; niels-chat restore old brings it back\nno matches for 'red fox'\n" in shown


def test_lines_typed_behind_the_end_are_named(typist: Typist, scripted: Any) -> None:
    shown = typist.type("hi\r/exit\rwhat is rope?\r\x1b[1;1R\x1b[A\x1b[200~pasted\x1b[201~", scripted(["ho"]))
    assert "ho\n(typed ahead and not sent: 'what is rope?', 'pasted')\n" in shown
    assert [content for _, content in typist.messages()] == ["hi", "ho"]


def test_a_quiet_terminal_shows_replies_errors_and_what_was_asked_for(typist: Typist, scripted: Any) -> None:
    later = (("ho\n", "/temp 1\r/tmep\r"), ("/temp?", CTRL_D))
    shown = typist.type("hi\r", scripted(["ho"]), later=later, quiet=True)
    assert shown.startswith("ho\ntemperature: 1, was 0.9\nunknown command /tmep")
    assert "resume" not in shown


def test_a_replay_shows_how_far_it_is(typist: Typist, scripted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on = threading.Event()

    async def replay(*_arguments: Any, on_progress: Any) -> Any:
        on_progress(3, 7)
        await asyncio.to_thread(goes_on.wait, 20)
        raise SessionTrouble("enough")

    monkeypatch.setattr("niels_gpt.replay.replay.replay", replay)
    later = (("ho\n", "/replay\r"), ("replaying: 3 of 7 replies", goes_on.set), ("enough", CTRL_D))
    shown = typist.type("hi\r", scripted(["ho"]), later=later, columns=lambda: 60)
    assert "replaying: 3 of 7 replies\x1b[0m\r\x1b[K" in shown


def test_the_same_text_again_is_named(typist: Typist, scripted: Any) -> None:
    model = scripted(["first"], ["other"], ["first"])
    later = (("varies more)\n", "/alt\r/undo\r/redo\r/tree\r"), ("/goto ID", CTRL_D))
    shown = typist.type("one\r/retry\r/retry\r", model, later=later)
    assert "other\nfirst\n(the same text as version 1; a higher /temperature varies more)\n" in shown
    assert "  1  first\n  2  other\n* 3  first (the same as 1)\n" in shown
    assert "back to before 'one'; /redo brings it back\n> one\nfirst\n" in shown
    assert "[5, head]\n" in shown


def test_every_message_and_its_lines_are_told_apart(typist: Typist, scripted: Any) -> None:
    shown = typist.type("a\x1b\rb\r/history\r", scripted(["c"]), later=(("\nc\n", ""), ("  b\nc", CTRL_D)))
    assert "> a\n  b\nc\n" in shown


def test_the_context_figure_follows_the_conversation(typist: Typist, scripted: Any) -> None:
    shown = typist.type(
        "/stats\rone two three\r/stats\r/undo\r/stats\r",
        scripted(["four five"]),
        later=(("back to before", ""), ("back to before 'one two three'", CTRL_D)),
    )
    figures = [int(line.split()[1]) for line in shown.splitlines() if line.startswith("context ")]
    assert figures[-1] == figures[-2] - 7  # two roles, three words and two
