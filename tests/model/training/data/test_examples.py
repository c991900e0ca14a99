"""Training examples: the very ids that are served, and masks that are the answers."""

from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from model.text.chat_template import ChatTemplate, RenderOptions
from model.text.task_prompts import Message, TaggedPrompts, TaggedText
from model.text.tokenizer import Tokenizer
from model.training.data.examples import (
    ANSWER,
    HEADER,
    INSTRUCTION_SHARE,
    MAX_TOKENS,
    PROMPT,
    Conversation,
    Document,
    Example,
    ExampleEncoder,
    conversations,
    length_of,
)
from tests.model.training.conftest import BUNDLED, sentence, translation

PROMPTS, TEMPLATE, SERVED = TaggedPrompts(), ChatTemplate.load(BUNDLED), Tokenizer.load(BUNDLED)
ENCODER = ExampleEncoder(tokenizers.Tokenizer.from_file(str(BUNDLED / "tokenizer.json")))
WHOLE = RenderOptions(add_generation_prompt=False)  # a conversation that has its last answer
LABELS = ["positive", "negative"]
SUMMARY = {"task": "summarize", "document": "A long text about the moon.", "summary": " The moon \n"}
ANALYSIS = {"task": "analyze", "text": "很好！", "label": "positive", "label_set": LABELS}
TALK = [
    {"role": "user", "content": "Hi <|im_end|> there"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "> 1 + 1?"},
    {"role": "assistant", "content": "2"},
]


def encode(row: dict[str, Any], with_instructions: bool = False) -> list[Example]:
    drafts = list(conversations(row, with_instructions=with_instructions))
    return [example for examples in ENCODER.encode(drafts) for example in examples]


def served_ids(messages: list[Message]) -> list[int]:
    return list(TEMPLATE.render_ids(messages, SERVED).token_ids)


def answer(example: Example) -> str:
    return SERVED.decode(example.token_ids[example.kinds == ANSWER].tolist(), skip_special=False)


@pytest.mark.parametrize(
    ("row", "number", "messages", "expected"),
    [
        (translation("Hi.", "嗨。"), 0, PROMPTS.translate("Hi.", "en", "zh"), "嗨。"),
        (translation("Hi.", "嗨。"), 1, PROMPTS.translate("嗨。", "zh", "en"), "Hi."),
        (translation(" Hi\n", "Hallo", "de"), 1, PROMPTS.translate("Hallo", "de", "en"), "Hi"),
        (SUMMARY, 0, PROMPTS.summarize(SUMMARY["document"], "en", "short"), "The moon"),
        (ANALYSIS, 0, PROMPTS.analyze("很好！", LABELS), "positive"),
        ({"task": "chat", "messages": TALK[:2]}, 0, PROMPTS.chat(TALK[:1]), "Hello!"),
    ],
)
def test_training_ids_are_the_served_prompt_and_the_answer(
    row: dict[str, Any], number: int, messages: list[Message], expected: str
) -> None:
    example = encode(row)[number]
    assert example.token_ids.tolist() == [*served_ids(messages), *SERVED.encode(expected), 2]
    assert answer(example) == expected + "<|im_end|>"


def test_a_tokenizer_without_the_special_tokens_is_refused_by_name() -> None:
    other = ExampleEncoder(tokenizers.Tokenizer(tokenizers.models.BPE()))
    with pytest.raises(ValueError, match=r"no token <\|task:chat\|>: take one that `routelm train-tokenizer`"):
        list(other.encode([Conversation(tuple(PROMPTS.chat(TALK[:2])))]))


def test_the_header_is_the_system_message_and_whose_turn_it_is() -> None:
    (example,) = encode(ANALYSIS)
    header = SERVED.decode(example.token_ids[example.kinds == HEADER].tolist(), skip_special=False)
    system = "<|im_start|>system\n<|task:analyze|>positive, negative<|im_end|>\n"
    assert header == f"{system}<|im_start|>user\n\n<|im_start|>assistant\n"
    prompt = SERVED.decode(example.token_ids[example.kinds == PROMPT].tolist(), skip_special=False)
    assert prompt == "很好！<|im_end|>"


def test_a_dialogue_is_the_rendered_conversation_and_every_answer_counts() -> None:
    (example,) = encode({"task": "chat", "messages": TALK})
    whole = TEMPLATE.render_ids(TALK, SERVED, WHOLE).token_ids
    assert (*example.token_ids.tolist(), *SERVED.encode("\n")) == whole
    assert answer(example) == "Hello!<|im_end|>2<|im_end|>"


@given(st.text(max_size=20), st.text(max_size=20))
def test_any_text_is_trained_as_it_is_served(question: str, reply: str) -> None:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    (example,) = encode({"task": "chat", "messages": messages})
    whole = TEMPLATE.render_ids(messages, SERVED, WHOLE).token_ids
    assert (*example.token_ids.tolist(), *SERVED.encode("\n")) == whole


def test_a_document_is_as_served_and_counts_whole() -> None:
    (example,) = encode({"task": "generate", "text": " Once upon a time. "})
    assert example.token_ids.tolist() == [*SERVED.encode_document("Once upon a time."), 0]
    assert example.kinds.tolist() == [HEADER] + [ANSWER] * (len(example.token_ids) - 1)


def test_a_long_document_is_cut_into_even_pieces() -> None:
    text = sentence(0, 3 * MAX_TOKENS)
    examples = encode({"task": "generate", "text": text})
    sizes = [len(example.token_ids) for example in examples]
    assert max(sizes) <= MAX_TOKENS
    assert max(sizes) - min(sizes) <= 2
    assert all(example.token_ids[0] == 0 for example in examples)
    assert [example.token_ids[-1] == 0 for example in examples] == [False] * (len(examples) - 1) + [True]
    assert "".join(SERVED.decode(example.token_ids.tolist()) for example in examples) == text


def test_a_long_dialogue_loses_its_first_turns_but_not_its_header() -> None:
    system = {"role": "system", "content": "Be kind."}
    turns = [
        {"role": role, "content": f"{number} {sentence(number, 60)}"}
        for number in range(10)
        for role in ("user", "assistant")
    ]
    (example,) = encode({"task": "chat", "messages": [system, *turns]})
    kept = next(
        n for n in range(0, 20, 2) if f"user\n{turns[n]['content']}" in SERVED.decode(example.token_ids.tolist())
    )
    whole = TEMPLATE.render_ids([system, *turns[kept:]], SERVED, WHOLE).token_ids
    longer = TEMPLATE.render_ids([system, *turns[kept - 2 :]], SERVED, WHOLE).token_ids
    assert (*example.token_ids.tolist(), *SERVED.encode("\n")) == whole
    assert len(example.token_ids) <= MAX_TOKENS < len(longer)


def test_what_cannot_be_cut_is_left_out() -> None:
    row = translation(sentence(0, MAX_TOKENS), "太长")
    assert list(ENCODER.encode(list(conversations(row, with_instructions=False)))) == [[], []]


def test_an_empty_document_gives_no_example() -> None:
    assert list(ENCODER.encode([Document("")])) == [[]]


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(ValueError, match="'paint' is not known"):
        encode({"task": "paint"})


@pytest.mark.parametrize(
    ("summary", "language", "length"),
    [
        (sentence(0, 8), "en", "short"),
        (sentence(0, 9), "en", "medium"),
        (sentence(0, 20), "fr", "medium"),
        (sentence(0, 21), "en", "long"),
        ("字" * 12, "zh", "short"),
        ("字" * 13, "zh", "medium"),
        ("字" * 31, "zh", "long"),
    ],
)
def test_length_of_a_summary(summary: str, language: str, length: str) -> None:
    assert length_of(summary, language) == length


# Requests in plain words


def drafts_of(rows: list[dict[str, Any]], with_instructions: bool = True) -> list[Conversation]:
    drafts = [draft for row in rows for draft in conversations(row, with_instructions=with_instructions)]
    return [draft for draft in drafts if isinstance(draft, Conversation)]


def is_instruction(conversation: Conversation) -> bool:
    system: TaggedText = conversation.messages[0]["content"]
    return system.tags == ("<|task:chat|>",)


def _many(task: str) -> list[dict[str, Any]]:
    rows = {
        "translate": [translation(sentence(n), f"句子{n}") for n in range(1000)],
        "summarize": [SUMMARY | {"document": sentence(n)} for n in range(2000)],
        "analyze": [ANALYSIS | {"text": sentence(n)} for n in range(2000)],
    }
    return rows[task]


@pytest.mark.parametrize("task", ["translate", "summarize", "analyze"])
def test_a_share_of_the_examples_asks_in_plain_words(task: str) -> None:
    drafts = drafts_of(_many(task))
    assert len(drafts) == 2000
    assert sum(map(is_instruction, drafts)) / 2000 == pytest.approx(INSTRUCTION_SHARE, abs=0.03)
    assert drafts == drafts_of(_many(task))
    assert not any(map(is_instruction, drafts_of(_many(task), with_instructions=False)))


@pytest.mark.parametrize("task", ["translate", "summarize", "analyze"])
def test_a_request_in_plain_words_holds_the_text_and_has_the_same_answer(task: str) -> None:
    phrases = set()
    for row in _many(task):
        for draft in drafts_of([row]):
            if is_instruction(draft):
                texts = {row.get(name, "").strip() for name in ("source", "target", "document", "text")} - {""}
                _, request, reply = [message["content"] for message in draft.messages]
                text = next(text for text in texts if text in request)
                phrases.add(request.replace(text, "*"))
                answers = {row.get(name, "").strip() for name in ("source", "target", "summary", "label")}
                assert reply in answers - {text}
    assert len(phrases) >= 3


def test_requests_in_plain_words_are_trained_as_served() -> None:
    drafts = drafts_of(_many("translate"))
    draft = next(draft for draft in drafts if is_instruction(draft))
    (example,) = next(ENCODER.encode([draft]))
    _, request, reply = [message["content"] for message in draft.messages]
    assert example.token_ids.tolist() == [
        *served_ids([{"role": "user", "content": request}]),
        *SERVED.encode(reply),
        2,
    ]
