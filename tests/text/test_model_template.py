"""Chat templates of other projects: the prompts of Hugging Face, and nothing that a template may not do."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from niels_gpt.text.bpe import BYTE_OF_LETTER
from niels_gpt.text.bpe_spec import spec_of
from niels_gpt.text.chat_template import ChatTemplateError
from niels_gpt.text.hf_bpe import HFBPETokenizer
from niels_gpt.text.jinja_sandbox import ChatTemplate
from niels_gpt.text.model_template import JinjaTemplate, RawTemplate
from niels_gpt.text.tokenizer import TokenizerError

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{{ '<start_of_turn>' + message['role'] + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
CONTROL = ["<|im_start|>", "<|im_end|>", "<bos>", "<start_of_turn>", "<end_of_turn>", "<eos>"]
SAID = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "hello"},
    {"role": "user", "content": " what is it?\n"},
]


@pytest.fixture(scope="module")
def tokenizer() -> HFBPETokenizer:
    pipeline = Tokenizer(models.BPE(vocab=BYTE_OF_LETTER, merges=[]))
    pipeline.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    pipeline.decoder = decoders.ByteLevel()
    pipeline.add_special_tokens(CONTROL)
    pipeline.add_tokens(["<think>", "</think>"])
    return HFBPETokenizer(spec_of(json.loads(pipeline.to_str())), size=300)


@pytest.fixture(scope="module", params=[CHATML, GEMMA], ids=["chatml", "gemma"])
def template(request: pytest.FixtureRequest, tokenizer: HFBPETokenizer) -> JinjaTemplate:
    return JinjaTemplate(tokenizer, request.param, tokens={"bos_token": "<bos>"}, end_ids=[261])


def shown(tokenizer: HFBPETokenizer, ids: list[int]) -> str:
    names = {n: tokenizer.spec.pieces[n] for n in tokenizer.spec.special}
    return "".join(names.get(n) or tokenizer.token_bytes(n).decode() for n in ids)


def test_the_prompt_is_what_the_template_says(tokenizer: HFBPETokenizer) -> None:
    chatml = JinjaTemplate(tokenizer, CHATML, tokens={}, end_ids=[])
    assert shown(tokenizer, chatml.prompt_ids(SAID)) == (
        "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nhello"
        "<|im_end|>\n<|im_start|>user\n what is it?\n<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_system_prompt_without_a_place_goes_in_front_of_the_first_message(
    tokenizer: HFBPETokenizer,
) -> None:
    gemma = JinjaTemplate(tokenizer, GEMMA, tokens={"bos_token": "<bos>"}, end_ids=[])
    assert shown(tokenizer, gemma.prompt_ids(SAID[:2])) == (
        "<bos><start_of_turn>user\nbe brief\n\nhi<end_of_turn>\n<start_of_turn>model\n"
    )


def test_a_reply_ends_with_the_token_that_the_template_puts_behind_it(template: JinjaTemplate) -> None:
    end = "<|im_end|>" if template.source == CHATML else "<end_of_turn>"
    assert template.stop_ids == {261, 256 + CONTROL.index(end)}
    assert template.banned_ids >= set(range(264, 300)) | {256, 258} - template.stop_ids


@given(
    text=st.lists(
        st.one_of(st.sampled_from([*CONTROL, "<think>", "<|im_", "end|>"]), st.text(max_size=5))
    ).map("".join)
)
def test_no_message_adds_a_control_token(template: JinjaTemplate, text: str) -> None:
    control = {*template._tokenizer.spec.special, *template._tokenizer.spec.visible}

    def count(content: str) -> int:
        said = [{"role": "system", "content": content}, {"role": "user", "content": "x" + content + "x"}]
        return sum(token_id in control for token_id in template.prompt_ids(said))

    assert count(text) == count("plain")


def test_a_reply_learns_itself_and_its_end(template: JinjaTemplate) -> None:
    ids, learned = template.training_ids(SAID[1:3])
    prompt = template.prompt_ids(SAID[1:2])
    if template.source == CHATML:  # Gemma's calls the reply by another role than the open one
        assert ids[: len(prompt)] == prompt
        assert not any(learned[: len(prompt)])
        assert all(learned[len(prompt) :])


def test_without_a_template_the_text_goes_on(tokenizer: HFBPETokenizer) -> None:
    raw = RawTemplate(tokenizer, begin_ids=[258], end_ids=[261])
    assert shown(tokenizer, raw.prompt_ids([{"role": "user", "content": "Once <bos>"}])) == "<bos>Once <bos>"
    assert raw.prompt_ids([{"role": "user", "content": "<bos>"}]).count(258) == 1
    assert raw.stop_ids == {261}


def test_all_noncharacters_at_once_are_refused(tokenizer: HFBPETokenizer) -> None:
    with pytest.raises(TokenizerError, match="noncharacters"):
        tokenizer.guard_for(["".join(chr(0xFDD0 + n) for n in range(32))])


NS = "{% set ns = namespace(x='aaaaaaaaaaaaaaaa') %}{% for i in range(60) %}"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{% for i in range(900000) %}{% for j in range(900000) %}{% endfor %}{% endfor %}", "200000 rounds"),
        ("{% for i in range(10**9) %}{% endfor %}", "more than a million"),
        (NS + "{% set ns.x = ns.x ~ ns.x %}{% endfor %}", "more than 8000000 characters"),
        (NS + "{% set ns.x = ns.x + ns.x %}{% endfor %}", "more than 8000000 characters"),
        (NS + "{% set ns.x = ns.x.replace('a', 'aa') %}{% endfor %}", "more than 8000000 characters"),
        (NS + "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}", "more than 100000 parts"),
        ("{{ 'a' * 10**9 }}", "more than|something other"),
        ("{{ 'x'.ljust(10) }}", "the method 'ljust'"),
        ("{{ '{:>1000000000}'.format(1) }}", "the method 'format'"),
        ("{{ 'a'|center(1000000000) }}", "No filter named 'center'"),
        ("{{ 9**9**9**9 }}", "something other than small numbers"),
        ("{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}", "recursion"),
        ("{{ ''.__class__.__mro__ }}", "attribute '__class__'"),
        ("{{ messages[0].update({'role': 'x'}) }}", "attribute 'update'"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{{ lipsum.__globals__ }}", "'lipsum' is undefined"),
        ("{{ raise_exception('not this one') }}", "refuses this conversation: not this one"),
        ("{% for %}", "cannot be used"),
        ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "cannot be used"),
        ("x" * 300_000, "300000 characters"),
    ],
)
def test_what_a_template_may_not_do_is_one_line_and_bounded(source: str, said: str) -> None:
    start = time.process_time()
    with pytest.raises(ChatTemplateError, match=said) as raised:
        ChatTemplate(source, tokens={}).render(SAID, open_reply=True)
    assert "\n" not in str(raised.value)
    assert time.process_time() - start < 10


def test_a_template_sees_one_date() -> None:
    template = ChatTemplate("{{ strftime_now('%d %b %Y') }}", tokens={})
    assert template.render(SAID, open_reply=True) == "26 Jul 2024"


def test_the_tags_that_hugging_face_adds_are_known() -> None:
    source = (
        "{% for m in messages %}{% if loop.index0 == 1 %}{% break %}{% endif %}{% generation %}{{ m.role }}"
    )
    template = ChatTemplate(source + "{% endgeneration %}{% endfor %}{{ messages | tojson }}", tokens={})
    assert template.render(SAID[:1], open_reply=True) == 'system[{"role": "system", "content": "be brief"}]'
