"""Nothing that is served needs more of a processor than our own kernels do, with them and without a compiler."""

from dataclasses import dataclass

import pytest
import torch
from torch.nn import functional

from model import kernels
from model.config import SoftmaxTopKConfig, hybrid_config
from model.loading.freeze import freeze_network
from model.network import CausalLM, cast_matrices
from model.quantization import SCHEMES
from server.engine.engine import Engine
from tests.model.older_processor import OlderProcessor
from tests.server.engine.tiny import engine_config, oracle, request, run

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class Widths:
    """Those that products have as inputs."""

    hidden: int
    head: int
    expert: int
    shared: int


WIDTHS = {"even": Widths(64, 32, 64, 32), "odd": Widths(52, 24, 21, 40)}


@pytest.fixture(params=[pytest.param("compiled", marks=pytest.mark.compiled_kernels), "definitions"])
def _kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "definitions":
        monkeypatch.setattr(kernels, "compiled", lambda: False)


def plain_network(widths: Widths, dtype: torch.dtype) -> CausalLM:
    torch.manual_seed(0)
    config = hybrid_config(
        hidden_size=widths.hidden, num_layers=4, num_heads=2, num_kv_heads=1, head_dim=widths.head, num_experts=4,
        router=SoftmaxTopKConfig(2), expert_width=widths.expert, shared_width=widths.shared, vocab_size=160,
        max_positions=256,
    )  # fmt: skip
    network = CausalLM(config)
    for parameter in network.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return cast_matrices(network, dtype)


def answers(network: CausalLM) -> dict[str, tuple[int, ...]]:
    """What three requests get that are served together."""
    asked = [request(str(number), list(range(5, 8 + 5 * number)), 3) for number in range(3)]
    return {name: output.token_ids for name, output in run(Engine(network, engine_config()), asked).items()}


@pytest.mark.usefixtures("_kernels")
@pytest.mark.parametrize("scheme", [None, *SCHEMES], ids=["plain", *SCHEMES])
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=list(DTYPES))
@pytest.mark.parametrize("widths", WIDTHS.values(), ids=list(WIDTHS))
def test_every_type_shape_and_scheme_is_served(widths: Widths, dtype: torch.dtype, scheme: str | None) -> None:
    network = plain_network(widths, dtype)
    with OlderProcessor():
        found = answers(freeze_network(network, None if scheme is None else SCHEMES[scheme]))
    assert {len(tokens) for tokens in found.values()} == {3}


@pytest.mark.parametrize("widths", WIDTHS.values(), ids=list(WIDTHS))
def test_a_product_of_a_library_would_be_noticed(widths: Widths) -> None:
    """Negative control: matrices that are not packed are multiplied by PyTorch."""
    network = plain_network(widths, torch.bfloat16).requires_grad_(False).eval()
    with OlderProcessor(), pytest.raises(RuntimeError, match="no products of narrow types"):
        oracle(network, request("r", [1, 2, 3], 1))


def test_such_a_processor_refuses_what_it_cannot_do() -> None:
    """Negative control of the simulation itself."""
    weight = torch.ones(32, 32, dtype=torch.bfloat16)
    with OlderProcessor():
        with pytest.raises(RuntimeError, match="AVX-512"):
            torch.ops.mkldnn._reorder_linear_weight(weight)
        with pytest.raises(RuntimeError, match="narrow types"):
            functional.linear(weight, weight)
        with torch.inference_mode(), pytest.raises(RuntimeError, match="narrow types"):
            functional.linear(weight, weight)
        assert functional.linear(weight.float(), weight.float()).sum() == 32**3
