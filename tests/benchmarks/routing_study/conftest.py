"""A size of network and a data set for studies that take seconds."""

from pathlib import Path

import pytest
import tokenizers

import model
from benchmarks.routing_study.result import LayerMeasures, RunResult, TrainingSummary, write_result
from benchmarks.routing_study.study import Study, SubRun, open_study
from benchmarks.routing_study.variants import SIZES, Size
from model.training.data.prepare import prepare
from model.training.data.sample_data import write_sample_data

BUNDLED = Path(model.__file__).parent / "bundled"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Size:
    """A size of that name, for the test that asks for it, and a short measurement of its speed."""
    size = Size(64, 4, 1, 1, num_experts=4, expert_width=32, shared_width=32, dtype="float32")
    monkeypatch.setitem(SIZES, "tiny", size)
    monkeypatch.setattr("benchmarks.routing_study.cost.DECODED", 2)
    monkeypatch.setattr("benchmarks.routing_study.cost.REPEATS", 1)
    return size


@pytest.fixture(scope="session")
def tokenizer() -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(BUNDLED / "tokenizer.json"))


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sample_data(tmp_path_factory.mktemp("comparison-data"), lines=300)


@pytest.fixture(scope="session")
def prepared(data_dir: Path, tokenizer: tokenizers.Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("comparison-prepared")
    prepare(data_dir, tokenizer, out)
    return out


def layer(*, mean_k: float = 2.0, max_violation: float = 0.5, idle_experts: int = 0) -> LayerMeasures:
    return LayerMeasures(
        mean_k=mean_k,
        max_violation=max_violation,
        idle_experts=idle_experts,
        experts=4,
        entropy=1.9,
        token_information=1.1,
        task_information=0.2,
        language_information=0.1,
        task_shares={"translate": [0.4, 0.2, 0.2, 0.2], "chat": [0.1, 0.3, 0.3, 0.3]},
    )


def result_of(variant: str, seed: int, bits: float, speed: float = 1000.0) -> RunResult:
    routed = not variant.startswith("dense")
    return RunResult(
        run=SubRun(variant, seed),
        tokens=1000,
        bits_per_byte={"translate/a-en-zh": bits, "translate/b-en-zh": bits + 0.2, "generate/c-en": bits - 0.5},
        accuracy={"analyze/d-en": 50.0 + seed},
        majority={"analyze/d-en": 40.0},
        layers=(layer(idle_experts=seed - 1), layer(mean_k=3.0)) if routed else (),
        agreement={"0.5": 0.8} if routed else {},
        parameters=4_000_000,
        active_parameters=2e6,
        flops_per_token=4e6,
        serving_tokens_per_second=speed,
        threads=2,
        training=TrainingSummary(2.0 if routed else 0.0, 200.0, [400, 800, 1200], [8.0, 7.0, 6.0]),
    )


@pytest.fixture
def study_dir(tmp_path: Path) -> Path:
    """A finished study of made-up figures: two seeds of a routed variant and of a dense one."""
    directory = tmp_path / "study"
    open_study(Study(1000, variants=("softmax-top-2", "dense-active")), directory)
    for variant, bits, speed in (("softmax-top-2", 2.0, 800.0), ("dense-active", 2.1, 1200.0)):
        for seed in (1, 2):
            result = result_of(variant, seed, bits + 0.01 * seed, speed)
            run_dir = result.run.directory(directory)
            run_dir.mkdir()
            write_result(result, run_dir)
    return directory
