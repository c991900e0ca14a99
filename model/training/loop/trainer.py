"""The training loop: forward, loss, backward, step; a log, a checkpoint every few minutes, and an exact resume.

Shapes: B rows, L positions, E experts.
"""

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from model.load_balance import max_violation
from model.loading.load import load_network
from model.network import CausalLM, cast_matrices
from model.training.data.batches import BatchStream, valid_batches
from model.training.data.collate import TrainingBatch
from model.training.data.packing import PackedStream, Prefetched
from model.training.ema import ExponentialMovingAverage
from model.training.loop.checkpoints import Checkpoint, read_checkpoint, write_checkpoint
from model.training.loop.log import LogLine, RunLog
from model.training.loop.micro_batch import MicroReport, MicroStep, batch_loss
from model.training.loop.replica import Replica, Workers
from model.training.loop.run_state import RunState, learning_rate, phase_of
from model.training.more_experts import with_more_experts
from model.training.optimizer import Optimizer
from model.training.recipe import Phase, Recipe

LOADERS = 3  # processes that make packed batches: one makes a million tokens a second
SEED_STRIDE = 2**32  # between their seeds, which must not meet those of other phases and runs
MAX_SKIPPED_STEPS = 20  # a single one happens; this many mean that the weights are beyond repair


class Trainer:
    """One run in one directory. A new Trainer on the same directory resumes from its last checkpoint.

    With `start_from`, the directory of another run of the same network, a new run begins with the weights and the
    optimizer moments of that run and continues its count of steps and tokens, so `recipe.tokens` is the total of both.
    Data and batches are its own. `start_from` may also be the directory of a finished model: then the moments are zero
    and the learning rate warms up again, and the model may have fewer experts than the recipe: see more_experts.py.
    ValueError where it is neither, or another network.

    `workers` micro-batches run at the same time on one thread each; on a GPU it is 1. The number of workers changes
    the result only by rounding; their speed does not change it. (Expert-threshold routers are the exception: the
    threshold follows the last micro-batch of the first worker.)
    """

    state: RunState
    streams: dict[str, BatchStream | Prefetched]  # by phase

    def __init__(
        self,
        recipe: Recipe,
        prepared_dir: Path,
        run_dir: Path,
        *,
        device: str = "cpu",
        workers: int | None = None,
        start_from: Path | None = None,
    ) -> None:
        self.recipe, self.prepared_dir, self.run_dir, self.device = recipe, prepared_dir, run_dir, device
        torch.manual_seed(recipe.seed)
        if device != "cpu":
            torch.set_float32_matmul_precision("high")  # of float32 products on a GPU: with ten bits of mantissa
        self.network = CausalLM(recipe.model).to(device)
        self.network.tie_head()
        self.optimizer = Optimizer(self.network, recipe.optimizer)  # masters are taken before the cast
        self.average = None if recipe.ema_decay is None else ExponentialMovingAverage(self.optimizer, recipe.ema_decay)
        cast_matrices(self.network, getattr(torch, recipe.dtype))
        count = min(workers or torch.get_num_threads(), recipe.micro_batches) if device == "cpu" else 1
        self.workers = Workers(self.network, count)
        routers = self.workers.routers
        self.load = [torch.zeros(router.num_experts, device=device) for router in routers]  # of the last step
        self._micro_step = MicroStep(recipe, device)
        run_dir.mkdir(parents=True, exist_ok=True)
        checkpoint = read_checkpoint(run_dir, device)
        if checkpoint is None:
            self._start(start_from)
        else:
            self._resume(checkpoint)

    def _resume(self, checkpoint: Checkpoint) -> None:
        """Resume exactly from a checkpoint."""
        self.state = self._restore(checkpoint)
        self.streams = self._streams()
        for name, state in checkpoint.state["streams"].items():
            self.streams[name].load_state_dict(state)

    def _start(self, ancestor: Path | None) -> None:
        """Begin a run. Inherited weights are saved at once, so that the run no longer needs `ancestor`."""
        self.state = RunState() if ancestor is None else self._inherit(ancestor)
        self.streams = self._streams()
        if ancestor is not None:
            self.save()

    def _streams(self) -> dict[str, BatchStream | Prefetched]:
        """The data of both phases from its beginning, in an order that differs between phases and between runs."""
        seed = self.recipe.seed + self.state.inherited_tokens
        phases = {"stable": self.recipe.stable, "decay": self.recipe.decay}
        return {name: self._stream(phase, seed + n) for n, (name, phase) in enumerate(phases.items())}

    def _stream(self, phase: Phase, seed: int) -> BatchStream | Prefetched:
        data = (self.prepared_dir, phase.mixture)
        settings: dict[str, Any] = {
            "batch_tokens": self.recipe.micro_batch_tokens,
            "weights": phase.weights,
            "noise": phase.noise,
        }
        if self.recipe.packed or self.device != "cpu":  # a GPU compiles for every shape of a batch
            seeds = range(seed, seed + SEED_STRIDE * LOADERS, SEED_STRIDE)
            return Prefetched([PackedStream(*data, seed=of_stream, **settings) for of_stream in seeds])
        return BatchStream(*data, seed=seed, **settings)

    @property
    def finished(self) -> bool:
        return self.state.tokens >= self.recipe.tokens

    def steps(self) -> Iterator[LogLine]:
        """Train until the recipe's tokens are seen; a line of the log per step.

        Raises ValueError after MAX_SKIPPED_STEPS steps in a row whose gradients are not finite, which change no weight.
        The line of each of them comes before that.
        """
        skipped = 0
        while not self.finished:
            line = self.train_step()
            is_finite = line.gradient_norm is not None and math.isfinite(line.gradient_norm)
            skipped = 0 if is_finite else skipped + 1
            yield line
            if skipped == MAX_SKIPPED_STEPS:
                raise ValueError(
                    f"the gradients of the last {skipped} steps are not finite, so no weight changes any more: "
                    "go on from a model or a run before that (--start-from) with a lower learning rate"
                )

    def train_step(self) -> LogLine:
        """Forward and backward of all micro-batches, then one update.

        Gradients that are not finite change neither weights nor routers.
        """
        start, rate, count = time.monotonic(), learning_rate(self.recipe, self.state), self.recipe.micro_batches
        stream = self.streams[phase_of(self.recipe, self.state)]
        batches = [next(stream) for _ in range(count)]
        reports = self.workers.run(partial(self._micro_batch, batches), count)
        norm = self.optimizer.step(self.workers.mean_gradients(count), rate)
        self.workers.zero_gradients()
        if self.average is not None:
            self.average.update()
        tokens = sum(report.tokens for report in reports)
        self.load = [torch.stack(loads).sum(0) for loads in zip(*(report.load for report in reports), strict=True)]
        if norm.isfinite():
            self._update_routers(tokens)
        self.state = self.state.after_step(tokens)
        return LogLine(
            step=self.state.step,
            tokens=self.state.tokens,
            loss=float(sum(report.loss for report in reports)) / count,
            balance=float(sum(report.balance for report in reports)) / count,
            max_violation=sum(max_violation(load_E.tolist()) for load_E in self.load) / max(len(self.load), 1),
            gradient_norm=float(norm),
            learning_rate=rate,
            tokens_per_second=tokens / (time.monotonic() - start),
        )

    def _micro_batch(self, batches: list[TrainingBatch], replica: Replica, number: int) -> MicroReport:
        return self._micro_step.run(replica, batches[number], f"{self.state.step}/{number}", self.load)

    def _update_routers(self, tokens: int) -> None:
        """Give each router the load of its experts in this step, which had `tokens` tokens."""
        for router, load_E in zip(self.workers.routers, self.load, strict=True):
            router.after_step(load_E, tokens)

    def finished_weights(self) -> AbstractContextManager[None]:
        """Inside, the network holds the weights to validate and to export: the average, where the recipe wants one."""
        return nullcontext() if self.average is None else self.average.in_network()

    @torch.no_grad()
    def validate(self, sources: list[str], max_examples: int = 64) -> dict[str, float]:
        """Nats per answer token on the first examples of each validation source, with the configured k."""
        with self.finished_weights(), self._uncompiled():
            return {source: self._nats_per_token(source, max_examples) for source in sources}

    def _uncompiled(self) -> AbstractContextManager[object]:
        """Validation batches have many shapes: on a GPU, compiling for each takes longer than computing it."""
        return nullcontext() if self.device == "cpu" else torch.compiler.set_stance("force_eager")

    def _nats_per_token(self, source: str, max_examples: int) -> float:
        total = count = 0.0
        for batch in valid_batches(self.prepared_dir, source, max_examples=max_examples):
            loss, _ = batch_loss(self.network, batch, batch.weights_BL.flatten(), self.device)
            weight = float(batch.weights_BL.sum())
            total += weight * float(loss)
            count += weight
        return total / max(count, 1.0)

    def save(self) -> None:
        """Write a checkpoint to resume from exactly; a save that is killed leaves the old one."""
        router_buffers = {name: buffer for name, buffer in self.network.named_buffers() if "router." in name}
        buffers = {f"buffer/{name}": buffer.clone() for name, buffer in router_buffers.items()}
        loads = {f"load/{layer}": load_E for layer, load_E in enumerate(self.load)}
        state = {
            **asdict(self.state),
            "streams": {name: stream.state_dict() for name, stream in self.streams.items()},
        }
        average = {} if self.average is None else self.average.state_tensors()
        write_checkpoint(self.run_dir, self.optimizer.state_tensors() | average | buffers | loads, state)

    def _inherit(self, ancestor: Path) -> RunState:
        """Take over the weights and the log of another run or of a finished model; returns its state."""
        checkpoint = read_checkpoint(ancestor, self.device)
        if checkpoint is not None:
            state = self._restore(checkpoint)
        elif (ancestor / "config.json").is_file():
            state = self._take_over(ancestor)
        else:
            raise ValueError(f"{ancestor} has no checkpoint to start from: give the directory of a run or of a model")
        RunLog(self.run_dir).write(RunLog(ancestor).lines())
        return replace(state, inherited_tokens=state.tokens)

    def _restore(self, checkpoint: Checkpoint) -> RunState:
        """Take over weights, moments and router buffers; returns the state of the checkpoint."""
        tensors, state = checkpoint.tensors, RunState.from_checkpoint(checkpoint.state)
        self.optimizer.load_state_tensors(tensors, state.warm_steps)
        if self.average is not None:
            self.average.load_state_tensors(tensors, state.warm_steps)
        buffers = {key.removeprefix("buffer/"): tensor for key, tensor in tensors.items() if key.startswith("buffer/")}
        self.network.load_state_dict(buffers, strict=False)
        self.load = [tensors[f"load/{layer}"] for layer in range(len(self.load))]
        return state

    def _take_over(self, model_dir: Path) -> RunState:
        """Take over the weights of a finished model; returns its state according to its log."""
        finished = load_network(model_dir, torch.float32, freeze=False)
        num_experts = max((moe.num_experts for _, moe in self.recipe.model.moe_layers()), default=0)
        weights = with_more_experts(dict(finished.named_parameters()), num_experts, self.recipe.seed)
        self.optimizer.load_masters(weights)
        if self.average is not None:
            self.average.load_state_tensors({}, 0)
        own = dict(self.network.named_buffers())
        same = {name: b for name, b in finished.named_buffers() if name in own and b.shape == own[name].shape}
        self.network.load_state_dict(same, strict=False)  # what a router knows of the load of fewer experts is lost
        lines = RunLog(model_dir).lines()
        return RunState(lines[-1].step, lines[-1].tokens, cold_step=lines[-1].step) if lines else RunState()
