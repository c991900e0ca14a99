"""SmolLM2-135M-Instruct straight from its GGUF file: it answers like transformers' reading of the same file."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from model.checkpoints.hub import find_checkpoint
from model.loading.load import load_network
from model.loading.split_experts import split_experts
from model.network import CausalLM
from model.quantization import SCHEMES, Scheme, plain_scheme
from model.text.chat_template import ChatTemplate
from model.text.tokenizer import Tokenizer
from tests.end_to_end.conftest import RunningServer, serving
from tests.model.batches import whole_batch
from tests.real_models import SMOLLM2, needs_smollm2

pytestmark = [pytest.mark.slow, needs_smollm2]

PARIS = "What is the capital of France?"
PROMPTS = (
    PARIS, "What is the largest planet?", "Name three colours.", "Write a haiku about rain.", "What is 7 times 8?",
    "Who wrote Hamlet?", "Explain gravity to a child.", "Give me a recipe for pancakes.", "What is DNA?",
    "Translate 'good morning' into French.", "Write a short poem about the sea.", "What is the speed of light?",
    "List the days of the week.", "Why is the sky blue?", "What is a prime number?", "Tell me a joke.",
    "Summarize the story of Cinderella.", "How do I boil an egg?", "What language is spoken in Brazil?",
    "def fibonacci(n):",
)  # fmt: skip
NEW_TOKENS = 16
TEXT = (
    "The river rises in the hills north of the town, where a dozen springs meet in a shallow valley. For most of the "
    "year it is narrow enough to jump across, but after a wet winter it floods the meadows, and the farmers move their "
    "sheep to higher ground. In 1846 a mill was built below the bridge. It ground corn until 1931, when the owner sold "
    "the wheel and turned the building into a workshop. Today it is a small museum. Visitors can see how the stones "
    "were dressed, how the sluice was opened in the morning, and how much flour a family needed in a week. The museum "
    "is open from April to October, every day except Monday, and children pay half. Near the mill, a path follows the "
    "water to the lake, which takes about an hour. There are herons, and in summer dragonflies, and if you are quiet "
    "and lucky you may see an otter. At the end of the path there is a hut where tea and cake are sold."
)
# Perplexity relative to the dequantized weights: what each scheme costs this model, which is small and sensitive
PERPLEXITY_BOUNDS = {"float32": 0.003, "stored": 0.003, "bfloat16": 0.005, "int8": 0.01, "int4": 0.12}


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    network: nn.Module = AutoModelForCausalLM.from_pretrained(
        SMOLLM2.parent, gguf_file=SMOLLM2.name, dtype=torch.float32
    )
    return network.eval()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(find_checkpoint(str(SMOLLM2)))


@pytest.fixture(scope="module")
def ours() -> CausalLM:
    return loaded(plain_scheme(torch.float32))


def loaded(scheme: Scheme | None, dtype: torch.dtype = torch.float32) -> CausalLM:
    return load_network(find_checkpoint(str(SMOLLM2)), dtype, scheme=scheme)


@torch.inference_mode()
def logits(network: CausalLM, ids_L: Tensor) -> Tensor:
    found: Tensor = network.logits(network(whole_batch(network, ids_L))[0])
    return found.float()


def prompt_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    template = ChatTemplate.load(find_checkpoint(str(SMOLLM2)))
    assert template is not None
    return list(template.render_ids([{"role": "user", "content": prompt}], tokenizer).token_ids)


def test_logits_equal_those_of_transformers(ours: CausalLM, theirs: nn.Module, tokenizer: Tokenizer) -> None:
    ids_L = torch.tensor(tokenizer.encode(TEXT))
    with torch.inference_mode():
        expected = theirs(ids_L[None]).logits[0]
    torch.testing.assert_close(logits(ours, ids_L), expected, atol=1e-3, rtol=0)


def test_greedy_answers_equal_those_of_transformers(ours: CausalLM, theirs: nn.Module, tokenizer: Tokenizer) -> None:
    """Of twenty prompts: given their tokens, our likeliest next token is the same at every step."""
    for prompt in PROMPTS:
        start = prompt_ids(tokenizer, prompt)
        answer = theirs.generate(  # type: ignore[operator]
            torch.tensor([start]), do_sample=False, max_new_tokens=NEW_TOKENS, eos_token_id=2, pad_token_id=2
        )[0]
        likeliest = logits(ours, answer)[len(start) - 1 : -1].argmax(1)
        assert torch.equal(likeliest, answer[len(start) :]), prompt


@pytest.mark.parametrize("name", PERPLEXITY_BOUNDS)
def test_perplexity_is_what_is_stated(name: str, theirs: nn.Module, tokenizer: Tokenizer) -> None:
    ids_L = torch.tensor(tokenizer.encode(TEXT))
    dtype = torch.float32 if name in ("float32", "stored") else torch.bfloat16
    network = loaded(None if name == "stored" else SCHEMES.get(name) or plain_scheme(dtype), dtype)
    with torch.inference_mode():
        expected = perplexity(theirs(ids_L[None]).logits[0], ids_L)
    found = perplexity(logits(network, ids_L), ids_L)
    print(f"perplexity {found:.3f} as {name}, {expected:.3f} dequantized")
    assert abs(found / expected - 1) < PERPLEXITY_BOUNDS[name]


def perplexity(logits_LV: Tensor, ids_L: Tensor) -> float:
    return math.exp(torch.nn.functional.cross_entropy(logits_LV[:-1], ids_L[1:]).item())


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serving(model=str(SMOLLM2)) as running:
        yield running


def test_it_is_served_and_knows_paris(server: RunningServer) -> None:
    answer = server.openai.chat.completions.create(
        model="SmolLM2-135M-Instruct.Q4_1", messages=[{"role": "user", "content": PARIS}], temperature=0, max_tokens=32
    )
    assert "Paris" in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"


def test_all_experts_of_the_split_model_say_the_same(ours: CausalLM, tokenizer: Tokenizer, tmp_path: Path) -> None:
    ids = tokenizer.encode(TEXT)
    split_experts(find_checkpoint(str(SMOLLM2)), tmp_path / "moe", ids, 8, dtype=torch.float32)
    network = load_network(tmp_path / "moe", torch.float32)
    expected, found = logits(ours, torch.tensor(ids)), logits(network, torch.tensor(ids))
    assert abs(perplexity(found, torch.tensor(ids)) / perplexity(expected, torch.tensor(ids)) - 1) < 0.003
    start = prompt_ids(tokenizer, PARIS)
    answer = torch.tensor([*start, *tokenizer.encode("The capital of France is Paris.")])
    likeliest = logits(network, answer)[len(start) - 1 :].argmax(1).tolist()
    assert likeliest[:-1] == answer[len(start) :].tolist()
    assert likeliest[-1] in tokenizer.eos_token_ids
