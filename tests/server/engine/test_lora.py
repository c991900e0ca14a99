"""Requests with LoRA adapters: many in one batch, each as if it were alone, and prefixes kept apart."""

from pathlib import Path

import numpy as np
import pytest
import torch

from model.loading.load import load_network
from model.network import CausalLM
from server.engine.engine import Engine
from server.engine.types import EngineOutput, GenerateRequest, SamplingParams
from tests.model.families.checkpoints import write_checkpoint
from tests.model.loading.lora.adapters import matrices, with_adapters, write_adapter
from tests.server.engine.tiny import engine_config, run

CASES = ("llama", "qwen3_moe", "qwen3_next")
ADAPTERS = 8
REQUESTS = 32
TOKENS = 6
Served = tuple[CausalLM, CausalLM, list[Path], Path]  # with adapters and without, the adapters, the checkpoint


@pytest.fixture(scope="module", params=CASES)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Served:
    directory = tmp_path_factory.mktemp(request.param)
    checkpoint = write_checkpoint(request.param, directory / "base").directory
    changed = matrices(checkpoint)
    some = {name: changed[name] for name in list(changed)[::3]}
    adapters = [
        write_adapter(directory / f"a{i}", some if i % 3 == 2 else changed, rank=2 + 3 * i, seed=i, scale=1.0)
        for i in range(ADAPTERS)
    ]
    plain = load_network(checkpoint, torch.bfloat16)
    return with_adapters(checkpoint, adapters, torch.bfloat16), plain, adapters, checkpoint


def prompt_of(index: int) -> tuple[int, ...]:
    rng = np.random.default_rng(index)
    return tuple(int(token) for token in rng.integers(3, 60, 5 + index % 7))


def request(index: int, adapter: str | None) -> GenerateRequest:
    sampling = SamplingParams(TOKENS, temperature=0.0, logprobs=3, ignore_eos=True)
    return GenerateRequest(f"{index}", prompt_of(index), sampling, adapter=adapter)


def adapter_of(index: int) -> str | None:
    """Every ninth request has none."""
    return None if index % (ADAPTERS + 1) == ADAPTERS else f"a{index % (ADAPTERS + 1)}"


def answers(network: CausalLM, requests: list[GenerateRequest]) -> dict[str, EngineOutput]:
    return run(Engine(network, engine_config(max_model_len=64, max_num_seqs=REQUESTS)), requests)


def content(output: EngineOutput) -> tuple[object, ...]:
    return output.token_ids, output.logprobs


@pytest.mark.compiled_kernels
def test_32_requests_with_8_adapters_are_each_answered_as_alone(served: Served) -> None:
    network, plain, *_ = served
    together = answers(network, [request(i, adapter_of(i)) for i in range(REQUESTS)])
    assert len({content(output) for output in together.values()}) > ADAPTERS
    for i in range(ADAPTERS + 1):
        adapter = adapter_of(i)
        alone = answers(plain if adapter is None else network, [request(i, adapter)])
        assert content(together[f"{i}"]) == content(alone[f"{i}"])


@pytest.mark.compiled_kernels
def test_other_adapters_that_are_loaded_change_no_bit(served: Served) -> None:
    network, _, adapters, checkpoint = served
    for path in adapters[1:3]:
        alone = answers(with_adapters(checkpoint, [path], torch.bfloat16), [request(1, path.name)])
        assert content(alone["1"]) == content(answers(network, [request(1, path.name)])["1"])


@pytest.mark.compiled_kernels
def test_requests_without_an_adapter_are_answered_as_without_any_loaded(served: Served) -> None:
    network, plain, *_ = served
    requests = [request(i, None) for i in range(5)]
    expected, mixed = answers(plain, requests), answers(network, [*requests, request(6, "a0")])
    for item in requests:
        assert content(mixed[item.request_id]) == content(expected[item.request_id])


def test_an_adapter_changes_the_answer(served: Served) -> None:
    """The control of the tests above: with the wrong adapter they would fail."""
    network = served[0]
    found = {content(answers(network, [request(1, name)])["1"]) for name in (None, "a0", "a1")}
    assert len(found) == 3


def test_prefixes_of_adapters_are_kept_apart(served: Served) -> None:
    network = served[0]
    prompt = prompt_of(0) * 8
    engine = Engine(network, engine_config(max_model_len=64, max_num_seqs=REQUESTS))

    def cached(name: str, adapter: str | None) -> int:
        wanted = GenerateRequest(name, prompt, SamplingParams(2, temperature=0.0), boundaries=(32,), adapter=adapter)
        return run(engine, [wanted])[name].num_cached_tokens

    assert cached("first", "a0") == 0
    assert cached("again", "a0") > 0
    assert cached("other", "a1") == cached("none", None) == 0


def test_an_adapter_that_is_not_loaded_is_refused(served: Served) -> None:
    with pytest.raises(ValueError, match="adapter is 'a9': this network has a0, a1"):
        answers(served[0], [request(0, "a9")])
