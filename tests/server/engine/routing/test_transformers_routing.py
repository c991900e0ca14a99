"""The routing that requests get back equals what transformers' routers say, by forward hooks on the same checkpoint."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from model.checkpoints.hub import BUNDLED
from model.checkpoints.safetensors_files import read_config
from model.loading.load import load_network
from model.text.tokenizer import Tokenizer
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.types import ReturnedRouting, RoutingParams
from tests.model.families.checkpoints import Pair, write_checkpoint
from tests.server.engine.tiny import request, run

GATES_WITHIN = 1e-6
# Of what transformers gives in float64. The routers are sharp: its own float32 is 1.8e-6 off, ours up to 2.0e-6.
BUNDLED_WITHIN = 2.5e-6
TEXT = "Once upon a time there was a little dog. 从前有一只小狗，它有 3 个朋友。 The dog"
# The random weights of tiny qwen3_next amplify the rounding of float32: up to 1.7e-6 were seen, by level and prompt
FAMILIES = {"mixtral": GATES_WITHIN, "lfm2_moe": GATES_WITHIN, "qwen3_next": 4e-6}


def check(pair: Pair, prompt: list[int], max_tokens: int, within: float = GATES_WITHIN) -> None:
    """Serve a prompt in chunks beside another one, and compare every token with what the hooks saw."""
    network = load_network(pair.directory, torch.float32)
    layers = tuple(layer for layer, _ in network.config.moe_layers())
    engine = Engine(network, EngineConfig(256, max_num_seqs=4, cache_bytes=2**25, max_prefill_chunk=11))
    asked = RoutingParams(returned=ReturnedRouting(layers, prompt=True))
    result = run(engine, [request("r", prompt, max_tokens, routing=asked), request("other", prompt[:3], 20)])["r"]
    computed = torch.tensor([*prompt, *result.token_ids[:-1]])
    expected = pair.routings(computed)
    found = (*result.prompt_routing, *result.routing[1:])
    assert len(found) == len(computed) == len(prompt) + max_tokens - 1
    assert result.prompt_routing[-1] == result.routing[0]
    for place, (_, gates_TK, experts_TK) in enumerate(expected):
        assert_equal([token.experts[place] for token in found], [token.gates[place] for token in found],
                     experts_TK, gates_TK, within)  # fmt: skip


def assert_equal(
    experts: list[tuple[int, ...]], gates: list[tuple[float, ...]], experts_TK: Tensor, gates_TK: Tensor, within: float
) -> None:
    gates_TK, order_TK = gates_TK.float().sort(dim=-1, descending=True, stable=True)
    assert experts == [tuple(row) for row in experts_TK.gather(1, order_TK).tolist()]
    torch.testing.assert_close(torch.tensor(gates), gates_TK, atol=within, rtol=0)


def some_ids(vocab_size: int, length: int, seed: int = 3) -> list[int]:
    ids: list[int] = torch.randint(vocab_size, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    return ids


@pytest.mark.parametrize("seed", range(3, 7))
@pytest.mark.parametrize("case", FAMILIES)
def test_of_a_tiny_family(case: str, seed: int, tmp_path: Path) -> None:
    pair = write_checkpoint(case, tmp_path)
    check(pair, some_ids(read_config(pair.directory)["vocab_size"], 30, seed), 10, FAMILIES[case])


def test_of_the_bundled_model() -> None:
    theirs: Any = AutoModelForCausalLM.from_pretrained(BUNDLED, dtype=torch.float64, experts_implementation="eager")
    assert isinstance(BUNDLED, Path)
    check(Pair(theirs.eval(), BUNDLED), Tokenizer.load(BUNDLED).encode(TEXT), 12, within=BUNDLED_WITHIN)


def test_the_comparison_can_fail(tmp_path: Path) -> None:
    """Negative control: transformers with other weights."""
    pair = write_checkpoint("qwen3_next", tmp_path)
    pair.theirs.model.embed_tokens.weight.data.add_(0.5)  # type: ignore[union-attr,operator]
    with pytest.raises(AssertionError):
        check(pair, some_ids(read_config(pair.directory)["vocab_size"], 30), 10)
