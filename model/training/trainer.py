"""The training loop: forward, loss, backward, step; a log, a checkpoint every few minutes, and an exact resume.

Shapes: B rows, L positions, E experts.
"""

import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model.loading import load_network
from model.network import CausalLM, cast_matrices
from model.training import losses
from model.training.batches import BatchStream, TrainingBatch, valid_batches
from model.training.checkpoints import Checkpoint, read_checkpoint, write_checkpoint
from model.training.log import LOG_NAME, read_log
from model.training.micro_batch import MicroReport, MicroStep, batch_loss
from model.training.optimizer import Optimizer
from model.training.recipes import Phase, Recipe
from model.training.replica import Replica, mean_gradients, share_weights


@dataclass(frozen=True, slots=True)
class StepReport:
    """One optimizer step, as it stands in the log."""

    step: int
    tokens: int  # seen so far, padding left out
    loss: float  # nats per counted token
    balance: float  # balance loss, 1 is even
    max_violation: float  # mean over layers
    gradient_norm: float
    learning_rate: float  # share of the peak
    tokens_per_second: float


class Trainer:
    """One run in one directory. Built anew on the same directory, it goes on where the last checkpoint stood.

    With `start_from`, the directory of another run of the same network, a new run begins with that run's weights and
    moments and goes on counting its steps and tokens; data, batches and all else are its own. The recipe's tokens are
    those of both. It may also be the directory of a finished model: then the moments are new and the rate warms up
    again. ValueError where it is neither, or another network.

    `workers` micro-batches run at the same time on one thread each; on a GPU it is 1. The result depends on the number
    of workers only through rounding, and not at all on which of them is faster. (An expert threshold follows the last
    micro-batch of the first worker, so with it the number of workers does matter.)
    """

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
        self.network = CausalLM(recipe.model).to(device)
        self.network.tie_head()
        self._micro_step = MicroStep(recipe, device)
        self.optimizer = Optimizer(self.network, recipe.optimizer)  # masters are taken before the cast
        cast_matrices(self.network, getattr(torch, recipe.dtype))
        threads = torch.get_num_threads()
        count = min(workers or threads, recipe.micro_batches) if device == "cpu" else 1
        twins = [share_weights(self.network) for _ in range(count - 1)]
        self.replicas = [Replica(network) for network in (self.network, *twins)]
        self.pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(max(threads // count, 1),))
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        routers = self.replicas[0].routers
        self.load = [torch.zeros(router.num_experts, device=device) for router in routers]  # of the last step
        run_dir.mkdir(parents=True, exist_ok=True)
        self.inherited_tokens = 0  # of the runs this one started from
        self.cold_step = 0  # where the moments were new
        checkpoint = read_checkpoint(run_dir, device)
        if checkpoint is not None:
            self._restore_weights(checkpoint)
            self.inherited_tokens = checkpoint.state.get("inherited_tokens", 0)
        elif start_from is not None:
            self._inherit(start_from)
        self.streams = self._streams(checkpoint.state["streams"] if checkpoint is not None else {})
        if checkpoint is None and start_from is not None:
            self.save()

    def _streams(self, states: dict[str, dict[str, Any]]) -> dict[str, BatchStream]:
        """The data of both phases, where `states` were taken. Each phase and each heir reads in an order of its own."""
        phases = {"stable": self.recipe.stable, "decay": self.recipe.decay}
        seed = self.recipe.seed + self.inherited_tokens
        streams = {name: self._stream(phase, seed + n) for n, (name, phase) in enumerate(phases.items())}
        for name, state in states.items():
            streams[name].load_state_dict(state)
        return streams

    def _stream(self, phase: Phase, seed: int) -> BatchStream:
        return BatchStream(
            self.prepared_dir,
            phase.mixture,
            seed=seed,
            batch_tokens=self.recipe.micro_batch_tokens,
            weights=phase.weights,
            noise=phase.noise,
        )

    @property
    def finished(self) -> bool:
        return self.tokens >= self.recipe.tokens

    @property
    def phase(self) -> str:
        return "decay" if self.tokens >= self.recipe.tokens * (1 - self.recipe.decay_share) else "stable"

    def learning_rate(self) -> float:
        """Share of the peak rates: warm-up, plateau, then 1 - sqrt down to zero at the last token."""
        decay_start = self.recipe.tokens * (1 - self.recipe.decay_share)
        warm = min(1.0, (self.step - self.cold_step + 1) / self.recipe.warmup_steps)
        progress = max(0.0, (self.tokens - decay_start) / (self.recipe.tokens - decay_start))
        return float(warm * (1 - min(progress, 1.0) ** 0.5))

    def steps(self) -> Iterator[StepReport]:
        """Train until the recipe's tokens are seen; one report per step."""
        while not self.finished:
            yield self.train_step()

    def train_step(self) -> StepReport:
        """Forward and backward of all micro-batches, then one update."""
        start, rate, count = time.monotonic(), self.learning_rate(), self.recipe.micro_batches
        stream = self.streams[self.phase]
        batches = [next(stream) for _ in range(count)]
        shares = list(enumerate(self.replicas))
        jobs = [self.pool.submit(self._work, replica, batches, range(n, count, len(shares))) for n, replica in shares]
        reports = [report for job in jobs for report in job.result()]
        norm = self.optimizer.step(mean_gradients(self.replicas, count), rate)
        for replica in self.replicas:
            replica.zero()
        self.load = [torch.stack(loads).sum(0) for loads in zip(*(report.load for report in reports), strict=True)]
        tokens = sum(report.tokens for report in reports)
        for router, load_E in zip(self.replicas[0].routers, self.load, strict=True):
            router.after_step(load_E, tokens)
        seconds = time.monotonic() - start
        self.step, self.tokens, self.seconds = self.step + 1, self.tokens + tokens, self.seconds + seconds
        return StepReport(
            step=self.step,
            tokens=self.tokens,
            loss=sum(report.loss for report in reports) / count,
            balance=sum(report.balance for report in reports) / count,
            max_violation=sum(map(losses.max_violation, self.load)) / max(len(self.load), 1),
            gradient_norm=norm,
            learning_rate=rate,
            tokens_per_second=tokens / seconds,
        )

    def _work(self, replica: Replica, batches: list[TrainingBatch], mine: range) -> list[MicroReport]:
        return [self._micro_step.run(replica, batches[n], f"{self.step}/{n}", self.load) for n in mine]

    @torch.no_grad()
    def validate(self, sources: list[str], max_examples: int = 64) -> dict[str, float]:
        """Nats per answer token on the first examples of each validation source, with the configured k."""
        for router in self.replicas[0].routers:
            router.k = router.configured_k
        result = {}
        for source in sources:
            total = count = 0.0
            for batch in valid_batches(self.prepared_dir, source, max_examples=max_examples):
                loss, _ = batch_loss(self.network, batch, batch.weights_BL.flatten(), self.device)
                weight = float(batch.weights_BL.sum())
                total += weight * float(loss)
                count += weight
            result[source] = total / max(count, 1.0)
        return result

    def save(self) -> None:
        """Write a checkpoint that a new Trainer on this directory resumes from, exactly; never leaves half of one."""
        router_buffers = {name: buffer for name, buffer in self.network.named_buffers() if "router." in name}
        buffers = {f"buffer/{name}": buffer.clone() for name, buffer in router_buffers.items()}
        loads = {f"load/{layer}": load_E for layer, load_E in enumerate(self.load)}
        state = {
            "step": self.step,
            "tokens": self.tokens,
            "inherited_tokens": self.inherited_tokens,
            "cold_step": self.cold_step,
            "seconds": self.seconds,
            "streams": {name: stream.state_dict() for name, stream in self.streams.items()},
        }
        write_checkpoint(self.run_dir, self.optimizer.state_tensors() | buffers | loads, state)

    def _inherit(self, ancestor: Path) -> None:
        """Begin with another run's weights and log."""
        checkpoint = read_checkpoint(ancestor, self.device)
        if checkpoint is not None:
            self._restore_weights(checkpoint)
        elif (ancestor / "config.json").is_file():
            self._take_over(ancestor)
        else:
            raise ValueError(f"{ancestor} has no checkpoint to start from: give the directory of a run or of a model")
        self.inherited_tokens = self.tokens
        if (ancestor / LOG_NAME).exists():
            shutil.copyfile(ancestor / LOG_NAME, self.run_dir / LOG_NAME)

    def _take_over(self, model_dir: Path) -> None:
        """The weights of a finished model, and what its log says of how it came about."""
        finished = load_network(model_dir, torch.float32, pack=False)
        self.optimizer.load_masters(dict(finished.named_parameters()))
        self.network.load_state_dict(dict(finished.named_buffers()), strict=False)
        lines = read_log(model_dir / LOG_NAME)
        if lines:
            self.step, self.tokens, self.cold_step = lines[-1]["step"], lines[-1]["tokens"], lines[-1]["step"]

    def _restore_weights(self, checkpoint: Checkpoint) -> None:
        tensors, state = checkpoint.tensors, checkpoint.state
        self.optimizer.load_state_tensors(tensors, state["step"])
        buffers = {key.removeprefix("buffer/"): tensor for key, tensor in tensors.items() if key.startswith("buffer/")}
        self.network.load_state_dict(buffers, strict=False)
        self.step, self.tokens, self.seconds = state["step"], state["tokens"], state["seconds"]
        self.load = [tensors[f"load/{layer}"] for layer in range(len(self.load))]
        self.cold_step = state.get("cold_step", 0)
