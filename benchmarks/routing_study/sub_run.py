"""One run of a study: train a variant with a seed, look at its router on the way, measure it at the end.

<study>/<variant>-seed<seed>/checkpoint     from which it goes on, and from which it can be measured anew
                            /log.jsonl      a line a step
                            /choices-*.npz  the experts of the probe's tokens at a share of the training
                            /result.json    written last: a run that has one is finished
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import tokenizers
import torch
from torch import Tensor

from benchmarks.routing_study import cost
from benchmarks.routing_study.choices import Probe, agreement, gates, layer_measures, make_probe, save_choices
from benchmarks.routing_study.likelihood import bits_per_byte_by_source, label_accuracy, majority_share
from benchmarks.routing_study.result import RunResult, TrainingSummary, six_digits, write_result
from benchmarks.routing_study.study import Study, SubRun
from benchmarks.routing_study.variants import model_of, variant_named
from model.bundled_recipe.recipes import mixture
from model.evaluation.data import EvaluationSource, load_sources
from model.training.data.collate import LossWeights
from model.training.data.examples import ExampleEncoder
from model.training.data.rows import find_sources
from model.training.loop.checkpoints import SaveClock
from model.training.loop.interruption import Interrupted, interruption
from model.training.loop.log import LogLine, RunLog
from model.training.loop.trainer import Trainer
from model.training.recipe import Phase, Recipe

CHECKPOINT_SECONDS = 60.0
MILESTONES = (0.25, 0.5, 0.75)  # of the tokens, at which the choices are kept

OnProgress = Callable[[int, str], None]  # tokens of this run that are done, and what it is doing


@dataclass(frozen=True, slots=True)
class Materials:
    """What all runs of a study share: the data, and the texts they are measured on."""

    prepared: Path
    tokenizer: tokenizers.Tokenizer
    labelled: tuple[EvaluationSource, ...]
    probe: Probe


def load_materials(study: Study, data_dir: Path, prepared: Path, tokenizer: tokenizers.Tokenizer) -> Materials:
    """`data_dir` are the texts that were prepared. ValueError where they have no validation part."""
    tasks = sorted({source.task for source in find_sources(data_dir, "valid")})
    if not tasks:
        raise ValueError(f"{data_dir} has no validation files (<task>/<source>.valid.jsonl) to measure on")
    sources = load_sources(data_dir, tasks, study.rows_per_probe)
    labelled = load_sources(data_dir, ["analyze"], study.rows_per_label_set) if "analyze" in tasks else []
    return Materials(prepared, tokenizer, tuple(labelled), make_probe(sources, tokenizer))


def recipe_of(study: Study, run: SubRun, vocab_size: int) -> Recipe:
    """The training run: but for the network and its z-loss the same for all variants."""
    variant = variant_named(run.variant)
    return Recipe(
        model=model_of(variant, study.shape, vocab_size),
        tokens=study.tokens,
        stable=Phase(mixture("stable"), LossWeights(prompt=0.3)),
        decay=Phase(mixture("decay"), LossWeights(prompt=0.05)),
        micro_batch_tokens=2048,  # small steps: a few million tokens are some hundreds of them
        micro_batches=2,
        warmup_steps=max(1, min(60, study.tokens // 40_000)),
        z_weight=variant.z_weight,
        dtype=study.shape.dtype,
        seed=run.seed,
    )


def do_run(
    study: Study,
    run: SubRun,
    study_dir: Path,
    materials: Materials,
    *,
    device: str,
    workers: int | None,
    on_progress: OnProgress,
) -> RunResult:
    """Begin a run or go on with it, to its result."""
    recipe = recipe_of(study, run, materials.tokenizer.get_vocab_size())
    directory = run.directory(study_dir)
    trainer = Trainer(recipe, materials.prepared, directory, device=device, workers=workers)
    _train(trainer, materials.probe, on_progress)
    on_progress(trainer.state.tokens, "measuring")
    result = _measure(study, run, trainer, materials)
    write_result(result, directory)
    return result


def _train(trainer: Trainer, probe: Probe, on_progress: OnProgress) -> None:
    """To the end of the recipe. Ctrl-C stops it after the step, and raises Interrupted."""
    log, clock = RunLog(trainer.run_dir), SaveClock(CHECKPOINT_SECONDS)
    log.forget_after(trainer.state.step)
    before = trainer.state.tokens
    with interruption() as stop:
        for line in trainer.steps():
            for share in MILESTONES:
                if trainer.load and before < share * trainer.recipe.tokens <= line.tokens:
                    save_choices(_choices_path(trainer.run_dir, share), gates(trainer.network, probe))
            log.append(_log_line(line, trainer.load, line.tokens - before))
            on_progress(line.tokens, f"loss {line.loss:.3f}")
            before = line.tokens
            if trainer.finished or stop.is_set() or clock.is_due():
                trainer.save()
            if stop.is_set():
                raise Interrupted


def _measure(study: Study, run: SubRun, trainer: Trainer, materials: Materials) -> RunResult:
    network = trainer.network
    of_layers = gates(network, materials.probe)
    layers = tuple(layer_measures(gates_TE, materials.probe) for gates_TE in of_layers)
    costs = cost.cost_of(trainer.recipe.model, [layer.mean_k for layer in layers])
    encoder = ExampleEncoder(materials.tokenizer)
    kept = {share: path for share in MILESTONES if (path := _choices_path(trainer.run_dir, share)).exists()}
    return RunResult(
        run=run,
        tokens=trainer.state.tokens,
        bits_per_byte=bits_per_byte_by_source(network, materials.prepared, materials.tokenizer, study.rows_per_source),
        accuracy={source.name: label_accuracy(network, source, encoder) for source in materials.labelled},
        majority={source.name: majority_share(source) for source in materials.labelled},
        layers=layers,
        agreement={str(share): agreement(path, of_layers) for share, path in kept.items()},
        parameters=costs.parameters,
        active_parameters=costs.active_parameters,
        flops_per_token=costs.flops_per_token,
        serving_tokens_per_second=cost.decoding_rate(network),
        threads=torch.get_num_threads(),
        training=TrainingSummary.of(RunLog(trainer.run_dir).lines()),
    )


def _log_line(line: LogLine, load: Sequence[Tensor], tokens: int) -> LogLine:
    """What a study keeps of a step of so many `tokens`, with the number of experts that its load shows."""
    pairs = [float(load_E.sum()) for load_E in load]
    return LogLine(
        step=line.step,
        tokens=line.tokens,
        loss=six_digits(line.loss),
        mean_k=six_digits(fmean(pairs) / tokens) if pairs else 0.0,
        max_violation=six_digits(line.max_violation),
        tokens_per_second=six_digits(line.tokens_per_second),
    )


def _choices_path(run_dir: Path, share: float) -> Path:
    return run_dir / f"choices-{round(100 * share)}.npz"
