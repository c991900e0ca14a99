"""Training: it learns, it resumes exactly, what it writes loads again."""

import json
import math
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import tokenizers
import torch

from model.checkpoints.safetensors_files import read_config
from model.config import ExpertThresholdConfig, RouterConfig, SigmoidBiasConfig, SoftmaxTopKConfig, hybrid_config
from model.evaluation.training_facts import read_training_facts
from model.generate import generate, sequence_logprobs
from model.loading.load import load_network
from model.text.tokenizer import Tokenizer
from model.training.data.collate import LossWeights, Noise
from model.training.data.mixture import Mixture, MixturePart
from model.training.data.prepare import prepare
from model.training.export import export
from model.training.loop.interruption import Interrupted
from model.training.loop.log import LOG_NAME, LogLine, RunLog
from model.training.loop.run import run
from model.training.loop.run_state import RunState, learning_rate, phase_of
from model.training.loop.trainer import Trainer
from model.training.optimizer import OptimizerConfig, orthogonalize
from model.training.recipe import Phase, Recipe

BUNDLED = Path(__file__).parents[4] / "model" / "bundled"
SENTENCES = ["the cat sat on the mat.", "a dog ran after the cat.", "birds sing in the morning.", "rain fell all day."]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few lines of text, told again and again, as prepared data."""
    data, out = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("prepared")
    (data / "generate").mkdir()
    for split, count in (("train", 60), ("valid", 4)):
        texts = [f"{split} {n}: {SENTENCES[n % 4]} {SENTENCES[(n + 1) % 4]}" for n in range(count)]
        lines = [json.dumps({"task": "generate", "text": text}) for text in texts]
        (data / "generate" / f"rhymes-en.{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    prepare(data, tokenizers.Tokenizer.from_file(str(BUNDLED / "tokenizer.json")), out)
    return out


def recipe(router: RouterConfig | None = None, tokens: int = 6000) -> Recipe:
    model = hybrid_config(
        hidden_size=64, num_layers=4, num_heads=2, num_kv_heads=1, head_dim=32, num_experts=4,
        router=router or SoftmaxTopKConfig(2), expert_width=32, shared_width=32,
    )  # fmt: skip
    phase = Phase(Mixture((MixturePart("text", 1.0, ("generate/*",)),)), LossWeights(prompt=1.0))
    return Recipe(
        model=model, tokens=tokens, stable=phase, decay=phase, micro_batch_tokens=512, micro_batches=2,
        warmup_steps=3, random_k={1: 0.3, 2: 0.7} if router is None else None, optimizer=OptimizerConfig(),
        ema_decay=0.9, dtype="float32",  # bfloat16 is slow on a processor without products of it
    )  # fmt: skip


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    """The weights of the last step, and the average that would be exported."""
    last = {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}
    with trainer.finished_weights():
        return last | {f"average/{name}": tensor.clone() for name, tensor in trainer.network.state_dict().items()}


@pytest.mark.parametrize(
    "router", [None, SigmoidBiasConfig(2), ExpertThresholdConfig(2)], ids=["softmax", "sigmoid_bias", "threshold"]
)
def test_a_killed_and_resumed_run_gives_the_same_weights(
    prepared: Path, tmp_path: Path, router: RouterConfig | None
) -> None:
    whole = Trainer(recipe(router), prepared, tmp_path / "whole")
    for _ in range(3):
        whole.train_step()
    first = Trainer(recipe(router), prepared, tmp_path / "cut")
    first.train_step()
    first.save()
    first.train_step()  # lost: it was not saved
    second = Trainer(recipe(router), prepared, tmp_path / "cut")
    assert second.state.step == 1
    for _ in range(2):
        second.train_step()
    expected, actual = weights(whole), weights(second)
    assert all(torch.equal(expected[name], actual[name]) for name in expected)
    assert second.state == whole.state


def test_a_killed_and_resumed_run_of_packed_rows_gives_the_same_weights(prepared: Path, tmp_path: Path) -> None:
    first = Trainer(replace(recipe(), packed=True), prepared, tmp_path)
    first.train_step()
    first.save()
    resumed = Trainer(replace(recipe(), packed=True), prepared, tmp_path)
    assert resumed.train_step().loss == first.train_step().loss
    assert all(torch.equal(tensor, weights(resumed)[name]) for name, tensor in weights(first).items())


@pytest.mark.usefixtures("signals_of_a_terminal")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_asked_to_stop_keeps_every_step(
    prepared: Path, tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = Trainer(recipe(), prepared, tmp_path)
    step = stopped.train_step

    def stopped_in_the_second_step() -> LogLine:
        if stopped.state.step == 1:
            signal.raise_signal(number)
        return step()

    monkeypatch.setattr(stopped, "train_step", stopped_in_the_second_step)
    with pytest.raises(Interrupted, match=r"stopped after [\d,]+ of 6,000 tokens"):
        run(stopped, tokenizer_dir=BUNDLED, validate_on=[])
    resumed = Trainer(recipe(), prepared, tmp_path)
    assert resumed.state == stopped.state
    assert resumed.state.step == 2
    assert load_network(tmp_path / "model")  # as it is now


def test_a_run_resumed_after_gradients_that_were_not_finite_gives_the_same_weights(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Trainer(recipe(), prepared, tmp_path)
    with monkeypatch.context() as patch:
        infinite = {name: torch.full_like(master, math.inf) for name, master in first.optimizer.masters.items()}
        patch.setattr(first.workers, "mean_gradients", lambda count: infinite)
        first.train_step()
    first.save()
    resumed = Trainer(recipe(), prepared, tmp_path)
    for trainer in (first, resumed):
        trainer.train_step()
    assert all(torch.equal(tensor, weights(resumed)[name]) for name, tensor in weights(first).items())


def with_infinite_gradients(trainer: Trainer, steps: set[int]) -> Trainer:
    """In these steps, counted from 0."""
    infinite = {name: torch.full_like(master, math.inf) for name, master in trainer.optimizer.masters.items()}
    finite = trainer.workers.mean_gradients
    trainer.workers.mean_gradients = (  # type: ignore[method-assign]
        lambda count: infinite if trainer.state.step in steps else finite(count)
    )
    return trainer


def test_a_run_stops_when_no_step_changes_a_weight_any_more(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.training.loop.trainer.MAX_SKIPPED_STEPS", 3)
    trainer = with_infinite_gradients(Trainer(recipe(), prepared, tmp_path / "stops"), {1, 2, 3})
    with pytest.raises(ValueError, match="gradients of the last 3 steps are not finite"):
        run(trainer, tokenizer_dir=BUNDLED, validate_on=[])
    assert trainer.state.step == 4
    norms = [line.gradient_norm or 0.0 for line in RunLog(trainer.run_dir).lines()]
    assert [math.isfinite(norm) for norm in norms] == [True, False, False, False]
    goes_on = with_infinite_gradients(Trainer(recipe(), prepared, tmp_path / "goes-on"), {0, 1, 3, 4})
    assert len(list(goes_on.steps())) > 5


def test_a_step_that_is_not_finite_leaves_the_routers_as_they_are(prepared: Path, tmp_path: Path) -> None:
    """Thresholds that follow scores would otherwise stay NaN for ever, and no token would get an expert."""
    trainer = Trainer(recipe(ExpertThresholdConfig(2)), prepared, tmp_path)

    def thresholds() -> list[list[float]]:
        state = trainer.network.state_dict()
        return [tensor.tolist() for name, tensor in state.items() if name.endswith("threshold_E")]

    trainer.train_step()
    before = thresholds()
    with torch.no_grad():
        trainer.network.embedding.weight.fill_(math.nan)
    assert math.isnan(trainer.train_step().gradient_norm or 0.0)
    assert thresholds() == before != []
    trainer.optimizer.show(trainer.optimizer.masters)
    assert math.isfinite(trainer.train_step().gradient_norm or math.nan)
    assert thresholds() != before  # the control: a finite step changes them


def test_a_resumed_run_thins_and_disturbs_the_same_prompt_tokens(prepared_dir: Path, tmp_path: Path) -> None:
    labels = Mixture((MixturePart("labels", 1.0, ("analyze/*",)),))
    asks = Phase(labels, LossWeights(prompt=0.3), Noise((("analyze/*", 0.2),)))
    whole, first = (Trainer(replace(recipe(), stable=asks), prepared_dir, tmp_path / name) for name in ("whole", "cut"))
    for trainer in (whole, first):
        trainer.train_step()
    first.save()
    resumed = Trainer(replace(recipe(), stable=asks), prepared_dir, tmp_path / "cut")
    assert resumed.train_step().loss == whole.train_step().loss


def test_another_seed_gives_other_weights(prepared: Path, tmp_path: Path) -> None:
    """Negative control of the resume test: the comparison can fail."""
    a, b = (Trainer(replace(recipe(), seed=seed), prepared, tmp_path / str(seed)) for seed in (1, 2))
    for trainer in (a, b):
        trainer.train_step()
    assert any(not torch.equal(weights(a)[name], tensor) for name, tensor in weights(b).items())


@pytest.mark.slow
def test_a_run_overfits_logs_exports_and_speaks(prepared: Path, tmp_path: Path) -> None:
    trainer = Trainer(recipe(tokens=40_000), prepared, tmp_path / "run")
    directory = run(trainer, tokenizer_dir=BUNDLED, validate_on=["generate/rhymes-en"], validate_every=10)
    lines = [json.loads(line) for line in (tmp_path / "run" / LOG_NAME).read_text().splitlines()]
    assert lines[-1]["loss"] < 1.5 < 6 < lines[0]["loss"]
    assert lines[-1]["valid"]["generate/rhymes-en"] < 3
    assert lines[-1]["tokens"] >= 40_000
    assert (tmp_path / "run" / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert read_config(directory)["model_type"] == "qwen3_next"

    tokenizer, network = Tokenizer.load(directory), load_network(directory)
    told = tokenizer.encode(f"train 8: {SENTENCES[0]} {SENTENCES[1]}")
    assert float(sequence_logprobs(network, [0, *told]).mean()) > -1.5
    assert len(generate(network, [0, *told[:4]], 8)) == 8


def test_the_learning_rate_rises_stays_and_falls() -> None:
    whole = recipe(tokens=1000)
    assert learning_rate(whole, RunState()) == pytest.approx(1 / 3)
    assert learning_rate(whole, RunState(step=10, tokens=500)) == 1.0
    assert phase_of(whole, RunState(step=10, tokens=500)) == "stable"
    assert 0.2 < learning_rate(whole, RunState(step=10, tokens=850)) < 0.4
    assert phase_of(whole, RunState(step=10, tokens=850)) == "decay"
    assert learning_rate(whole, RunState(step=10, tokens=1000)) == 0.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_orthogonalize_flattens_singular_values(dtype: torch.dtype) -> None:
    stack = torch.randn(3, 48, 32)
    singular = torch.linalg.svdvals(orthogonalize(stack, dtype=dtype))
    assert 0.5 < float(singular.min()) <= float(singular.max()) < 1.4
    assert float(torch.linalg.svdvals(stack).min()) < 0.5 * float(torch.linalg.svdvals(stack).max())


# A run that starts from another


def test_a_run_starts_from_the_weights_moments_and_log_of_another(prepared: Path, tmp_path: Path) -> None:
    ancestor = Trainer(recipe(), prepared, tmp_path / "ancestor")
    for _ in range(3):
        RunLog(tmp_path / "ancestor").append(ancestor.train_step())
    ancestor.save()
    run_dir = tmp_path / "heir"
    heir = Trainer(recipe(), prepared, run_dir, start_from=tmp_path / "ancestor")
    assert heir.state == RunState(step=3, tokens=ancestor.state.tokens, inherited_tokens=ancestor.state.tokens)
    moments = heir.optimizer.state_tensors()
    assert all(torch.equal(tensor, moments[name]) for name, tensor in ancestor.optimizer.state_tensors().items())
    assert all(torch.equal(tensor, weights(heir)[name]) for name, tensor in weights(ancestor).items())
    assert heir.streams["stable"].sampler.tokens_drawn != ancestor.streams["stable"].sampler.tokens_drawn

    directory = run(heir, tokenizer_dir=BUNDLED, validate_on=[])
    assert [line.step for line in RunLog(run_dir).lines()] == list(range(1, heir.state.step + 1))
    assert read_training_facts(run_dir).tokens == heir.state.tokens >= 6000
    assert directory.is_dir()
    resumed = Trainer(recipe(), prepared, run_dir, start_from=tmp_path / "ancestor")
    assert resumed.state == heir.state


def test_phases_and_heirs_read_the_data_in_orders_of_their_own(prepared: Path, tmp_path: Path) -> None:
    ancestor = Trainer(recipe(), prepared, tmp_path / "ancestor")
    ancestor.train_step()
    ancestor.save()
    heir = Trainer(recipe(), prepared, tmp_path / "heir", start_from=tmp_path / "ancestor")
    again = Trainer(recipe(), prepared, tmp_path / "again")
    first = [next(trainer.streams[name]).token_ids_BL for trainer in (again, heir) for name in ("stable", "decay")]
    assert len({tuple(ids_BL.flatten().tolist()) for ids_BL in first}) == 4
    repeated = next(Trainer(recipe(), prepared, tmp_path / "control").streams["stable"]).token_ids_BL
    assert torch.equal(first[0], repeated)


def test_a_run_goes_on_from_a_finished_model(prepared: Path, tmp_path: Path) -> None:
    first = Trainer(recipe(), prepared, tmp_path / "first")
    model = run(first, tokenizer_dir=BUNDLED, validate_on=[])
    heir = Trainer(recipe(tokens=12000), prepared, tmp_path / "heir", start_from=model)
    step, tokens = first.state.step, first.state.tokens
    assert heir.state == RunState(step, tokens, inherited_tokens=tokens, cold_step=step)
    shipped = load_network(model, torch.float32, freeze=False)
    masters = heir.optimizer.masters
    assert all(torch.equal(masters[name], p) for name, p in shipped.named_parameters() if name in masters)
    assert all(not moment.any() for moment in heir.optimizer.first.values())
    rates = [heir.train_step().learning_rate for _ in range(3)]
    assert rates == [pytest.approx(share) for share in (1 / 3, 2 / 3, 1)]  # it warms up again
    heir.save()
    resumed = Trainer(recipe(tokens=12000), prepared, tmp_path / "heir")
    assert resumed.state == heir.state
    for trainer in (heir, resumed):
        trainer.train_step()
    assert all(torch.equal(tensor, weights(resumed)[name]) for name, tensor in weights(heir).items())


def test_a_run_goes_on_from_a_finished_model_with_fewer_experts(prepared: Path, tmp_path: Path) -> None:
    model = run(Trainer(recipe(), prepared, tmp_path / "first"), tokenizer_dir=BUNDLED, validate_on=[])
    larger = recipe(tokens=12000)
    moe = next(moe for _, moe in larger.model.moe_layers())
    layers = [replace(layer, feed_forward=replace(moe, num_experts=6)) for layer in larger.model.layers]
    larger = replace(larger, model=replace(larger.model, layers=tuple(layers)))
    heir = Trainer(larger, prepared, tmp_path / "heir", start_from=model)
    heir.train_step()
    assert [len(load_E) for load_E in heir.load] == [6] * 4
    assert heir.load[0][4:].any()  # tokens go to the new ones
    export(heir.network, BUNDLED, tmp_path / "larger")
    with pytest.raises(ValueError, match="checkpoint of another network"):  # never to a network with fewer
        Trainer(recipe(), prepared, tmp_path / "smaller", start_from=tmp_path / "larger")


def test_an_heir_that_is_killed_and_resumed_gives_the_same_weights(prepared: Path, tmp_path: Path) -> None:
    ancestor = Trainer(recipe(), prepared, tmp_path / "ancestor")
    ancestor.train_step()
    ancestor.save()
    whole = Trainer(recipe(), prepared, tmp_path / "whole", start_from=tmp_path / "ancestor")
    first = Trainer(recipe(), prepared, tmp_path / "cut", start_from=tmp_path / "ancestor")
    for trainer in (whole, whole, first):
        trainer.train_step()
    first.save()
    second = Trainer(recipe(), prepared, tmp_path / "cut")
    second.train_step()
    assert all(torch.equal(tensor, weights(second)[name]) for name, tensor in weights(whole).items())
    fresh = Trainer(recipe(), prepared, tmp_path / "fresh")  # negative control: the ancestor makes a difference
    for _ in range(2):
        fresh.train_step()
    assert any(not torch.equal(tensor, weights(fresh)[name]) for name, tensor in weights(whole).items())


def test_a_run_cannot_start_from_nothing_or_from_another_network(prepared: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="has no checkpoint to start from: give the directory of a run or of a model"):
        Trainer(recipe(), prepared, tmp_path / "a", start_from=tmp_path / "empty")
    Trainer(recipe(), prepared, tmp_path / "other").save()
    wider = replace(recipe(), model=hybrid_config(hidden_size=96, num_layers=4, num_heads=2, num_kv_heads=1))
    with pytest.raises(ValueError, match="checkpoint of another network: master/"):
        Trainer(wider, prepared, tmp_path / "b", start_from=tmp_path / "other")
