"""The task prompts: tags where the model knows them, plain words elsewhere, clear refusals in both."""

import pytest

from model.text.special_tokens import SPECIAL_TOKENS
from model.text.task_prompts import InstructionPrompts, TaggedPrompts, TaggedText, TaskPrompts, prompts_for

TAGGED, INSTRUCTIONS = TaggedPrompts(), InstructionPrompts()


def test_tagged_prompts_say_the_task_in_tags_and_the_text_alone() -> None:
    assert TAGGED.translate("Hello", "en", "zh") == [
        {"role": "system", "content": TaggedText(("<|task:translate|>", "<|en|>", "<|zh|>"))},
        {"role": "user", "content": "Hello"},
    ]
    assert TAGGED.summarize("Long", "de", "short")[0]["content"].tags == ("<|task:summarize|>", "<|de|>", "<|short|>")
    assert TAGGED.analyze("x", ["good", "bad"])[0]["content"] == TaggedText(("<|task:analyze|>",), "good, bad")


def test_chat_gets_its_tag_in_front_of_the_system_text() -> None:
    user = {"role": "user", "content": "hi"}
    assert TAGGED.chat([user]) == [{"role": "system", "content": TaggedText(("<|task:chat|>",))}, user]
    given = [{"role": "system", "content": " Be kind. "}, user]
    assert TAGGED.chat(given) == [{"role": "system", "content": TaggedText(("<|task:chat|>",), "Be kind.")}, user]
    assert TAGGED.chat([])[1:] == []


def test_instructions_name_languages_lengths_and_labels() -> None:
    translate = INSTRUCTIONS.translate("Hello", "en", "fr")[0]["content"]
    assert "from English to French" in translate
    assert translate.endswith("\n\nHello")
    assert "German" in INSTRUCTIONS.summarize("Lang", "de", "long")[0]["content"]
    assert "good, bad" in INSTRUCTIONS.analyze("x", ["good", "bad"])[0]["content"]
    assert INSTRUCTIONS.chat([{"role": "user", "content": "hi"}]) == [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize("prompts", [TAGGED, INSTRUCTIONS])
def test_wrong_values_are_refused_with_the_allowed_ones(prompts: TaskPrompts) -> None:
    with pytest.raises(ValueError, match="target language 'es' is not known: use one of en, zh, de, fr"):
        prompts.translate("x", "en", "es")
    with pytest.raises(ValueError, match="source language 'auto'"):
        prompts.translate("x", "auto", "en")
    with pytest.raises(ValueError, match="length 'tiny' is not known: use one of short, medium, long"):
        prompts.summarize("x", "en", "tiny")
    with pytest.raises(ValueError, match="labels is empty"):
        prompts.analyze("x", [])


def test_the_tokenizer_tells_which_prompts_to_use() -> None:
    assert isinstance(prompts_for(SPECIAL_TOKENS), TaggedPrompts)
    assert isinstance(prompts_for({"<|im_start|>"}), InstructionPrompts)
