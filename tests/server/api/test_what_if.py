"""POST /v1/routing/what-if, against the network alone."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient

from model.network import CausalLM
from model.training.train_tokenizer import CHAT_TEMPLATE
from server.engine.client.async_llm import AsyncLLM
from server.engine.engine import Engine
from server.engine.grammar.compiler import GrammarCompiler
from server.generation.grammar_tokenizer import open_grammar_tokenizer
from server.generation.model_facts import ModelFacts, RouterFacts
from server.middleware.api_keys import hash_key
from server.settings import Settings
from server.startup.app import Backend, create_app
from tests.model.batches import whole_batch
from tests.server.applications import Server, backend_on, byte_tokenizer, client_of, make_server
from tests.server.engine.tiny import MAX_LEN, engine_config, tiny_config, tiny_network

TOKENIZER = byte_tokenizer()
VOCAB = 288  # the tokenizer's, rounded up
PATH = "/v1/routing/what-if"
FACTS = ModelFacts(router=RouterFacts("SoftmaxTopK", dict.fromkeys(range(4), 4), experts_per_token=2))


@pytest.fixture(scope="module")
def network() -> CausalLM:
    return tiny_network(tiny_config(vocab_size=VOCAB))


@pytest.fixture(scope="module")
def real(network: CausalLM) -> Iterator[TestClient]:
    def open_backend() -> Backend:
        config = engine_config(max_num_seqs=4, eos_token_ids=frozenset(TOKENIZER.eos_token_ids))
        grammars = GrammarCompiler(partial(open_grammar_tokenizer, TOKENIZER, VOCAB))
        backend = backend_on(AsyncLLM(Engine(network, config)), TOKENIZER, grammars, CHAT_TEMPLATE, MAX_LEN)
        backend.service.facts = FACTS
        return backend

    with TestClient(create_app(Settings(allow_expert_masks=True), open_backend)) as client:
        yield client


@torch.inference_mode()
def logprobs(network: CausalLM, tokens: Sequence[int], masked: Mapping[int, Sequence[int]], k: int = 2) -> list[float]:
    """The oracle: the log-probability of each token after the first, in one step without the engine."""
    batch = whole_batch(network, torch.tensor(tokens))
    for layer, experts in masked.items():
        mask_TE = torch.zeros(len(tokens), 4, dtype=torch.bool)
        mask_TE[:, list(experts)] = True
        batch.masks[layer] = mask_TE  # type: ignore[index]
        batch.experts_by_layer[layer] = torch.full((len(tokens),), k)  # type: ignore[index]
    hidden_TD, _ = network(batch)
    logprobs_TV = network.logits(hidden_TD).log_softmax(-1)
    return [float(logprobs_TV[place, token]) for place, token in enumerate(tokens[1:])]


@pytest.mark.compiled_kernels
@pytest.mark.parametrize(
    ("fields", "masked", "k"),
    [
        ({"mask_experts": {"1": [0, 3], "3": [2]}}, {1: [0, 3], 3: [2]}, 2),
        ({"force_experts": {"0": [2]}}, {0: [0, 1, 3]}, 1),
        ({"force_experts": {"2": [0, 1, 3]}}, {2: [2]}, 3),
        ({"experts_per_token": 1}, {layer: [] for layer in range(4)}, 1),
    ],
)
def test_both_log_probabilities_are_those_of_the_network(
    fields: dict[str, Any], masked: dict[int, list[int]], k: int, real: TestClient, network: CausalLM
) -> None:
    prompt, completion = "The sea was calm. ", "Then the wind came."
    tokens = TOKENIZER.encode_document(prompt + completion)
    first = len(tokens) - len(completion)
    answer = real.post(PATH, json={"prompt": prompt, "completion": completion} | fields).json()
    found = answer["tokens"]
    assert [entry["id"] for entry in found] == tokens[first:]
    assert "".join(entry["token"] for entry in found) == completion
    before, after = (logprobs(network, tokens, by_layer, k)[first - 1 :] for by_layer in ({}, masked))
    assert [entry["logprob"] for entry in found] == pytest.approx(before, abs=1e-4)
    assert [entry["changed_logprob"] for entry in found] == pytest.approx(after, abs=1e-4)
    assert [entry["difference"] for entry in found] == [entry["changed_logprob"] - entry["logprob"] for entry in found]
    assert answer["total"]["difference"] == pytest.approx(sum(after) - sum(before), abs=1e-3)
    assert max(abs(entry["difference"]) for entry in found) > 0.01, "negative control: something was changed"


@pytest.mark.compiled_kernels
def test_without_a_completion_the_prompt_is_compared(real: TestClient, network: CausalLM) -> None:
    tokens = TOKENIZER.encode_document("Abc def")
    answer = real.post(PATH, json={"prompt": "Abc def", "mask_experts": {"2": [1]}}).json()
    assert [entry["id"] for entry in answer["tokens"]] == tokens[1:]
    expected = logprobs(network, tokens, {2: [1]})
    assert [entry["changed_logprob"] for entry in answer["tokens"]] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "Give mask_experts, force_experts or experts_per_token"),
        ({"mask_experts": {"0": [0, 1, 2]}}, "too few experts in layer 0"),
        ({"force_experts": {"7": [0]}}, "force_experts names layer 7"),
        ({"prompt": "", "mask_experts": {"0": [0]}}, "make it longer"),
        ({"completion": " ", "mask_experts": {"0": [0]}}, "completion"),
    ],
)
def test_what_cannot_be_is_refused(fields: dict[str, Any], words: str, real: TestClient) -> None:
    response = real.post(PATH, json={"prompt": "Abc"} | fields)
    assert response.status_code == 400
    assert words in response.json()["error"]["message"]


def test_the_first_scores_have_the_model_s_own_experts(tmp_path: Path) -> None:
    """And it takes the switch, and an admin's key where there are several."""
    body = {"prompt": "Abc", "mask_experts": {"0": [1]}}
    assert _statuses(make_server(), body, [{}]) == [403]
    keys = [
        {"name": name, "sha256": hash_key(name.encode()), "scopes": scopes}
        for name, scopes in (("user", ["inference"]), ("boss", ["inference", "admin"]))
    ]
    (tmp_path / "keys.json").write_text(json.dumps({"keys": keys}))
    server = make_server(allow_expert_masks=True, keys_file=str(tmp_path / "keys.json"))
    headers = [{"Authorization": f"Bearer {name}"} for name in ("user", "boss")]
    assert _statuses(server, body, headers) == [403, 200]
    masks = [request.routing.masked_experts for request in server.engine.submitted]
    assert masks == [((0, (1,)),), ()]


def _statuses(server: Server, body: dict[str, Any], headers: list[dict[str, str]]) -> list[int]:
    server.service.facts = FACTS
    with client_of(server) as client:
        return [client.post(PATH, json=body, headers=of_request).status_code for of_request in headers]
