"""The model that ships: complete, of a size to ship, and the same in transformers."""

import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from model.checkpoints.safetensors_files import read_config
from model.generate import generate, sequence_hidden
from model.loading.load import load_network
from model.text.tokenizer import Tokenizer

BUNDLED = Path(__file__).parents[2] / "model" / "bundled"
PROMPTS = [
    "Once upon a time", "The sea was", "In the morning", "She opened the door", "A little boy", "春眠不觉晓", "我喜欢",
    "The king said", "It was raining", "There is no", "He looked at", "On the table", "When the sun", "My friend",
    "We went to", "The old man", "Two birds", "Far away", "今天", "At last",
]  # fmt: skip


def test_the_directory_is_complete_and_small() -> None:
    names = {path.name for path in BUNDLED.iterdir()}
    assert names >= {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "MODEL_CARD.md"}
    assert (BUNDLED / "model.safetensors").stat().st_size <= 40_000_000


def test_the_card_says_what_must_be_said() -> None:
    page, details = (
        (BUNDLED / name).read_text(encoding="utf-8") for name in ("MODEL_CARD.md", "MODEL_CARD_DETAILS.md")
    )
    card = page + details
    for word in ("tokens", "CC BY", "validation", "hours", "routelm train", "not for"):
        assert word.lower() in card.lower(), word
    (millions,) = re.findall(r"([\d.]+) million tokens", page)
    assert float(millions) >= 20


@torch.inference_mode()
def test_transformers_gives_the_same_logits_and_greedy_tokens() -> None:
    theirs = AutoModelForCausalLM.from_pretrained(BUNDLED, dtype=torch.float32).eval()
    ours = load_network(BUNDLED, torch.float32)
    tokenizer, reader = Tokenizer.load(BUNDLED), AutoTokenizer.from_pretrained(BUNDLED)
    for prompt in PROMPTS:
        ids = tokenizer.encode_document(prompt)
        assert ids[1:] == reader.encode(prompt, add_special_tokens=False)
        new = generate(ours, ids, 12)
        expected_LV = theirs(torch.tensor([[*ids, *new]])).logits[0]
        # After our tokens so far, its choice is our next one: so it writes the same.
        assert expected_LV[len(ids) - 1 : -1].argmax(dim=-1).tolist() == new
        logits_LV = ours.logits(sequence_hidden(ours, [*ids, *new]))
        torch.testing.assert_close(logits_LV, expected_LV, atol=1e-4, rtol=0)


def test_the_chat_template_reads_the_same_in_transformers() -> None:
    from model.text.chat_template import ChatTemplate

    messages = [
        {"role": "user", "content": "Hello!"},
        {"role": "assistant", "content": "Hello! How can I help you?"},
        {"role": "user", "content": "谢谢"},
    ]
    theirs = AutoTokenizer.from_pretrained(BUNDLED).apply_chat_template(messages, add_generation_prompt=True)
    ours = ChatTemplate.load(BUNDLED).render_ids(messages, Tokenizer.load(BUNDLED))
    ids = theirs["input_ids"] if not isinstance(theirs, list) else theirs
    assert list(ours.token_ids) == list(ids)


def test_the_config_carries_what_other_engines_read() -> None:
    config = read_config(BUNDLED)
    assert config["architectures"] == ["Qwen3NextForCausalLM"]
    assert config["full_attention_interval"] == 4
    assert config["partial_rotary_factor"] == config["rope_parameters"]["partial_rotary_factor"] == 0.25  # type: ignore[index]
    assert config["tie_word_embeddings"] is True


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_precisions_load(dtype: torch.dtype) -> None:
    assert load_network(BUNDLED, dtype).dtype == dtype
