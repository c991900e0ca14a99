"""The training loop: forward, loss, backward, step; a log, a checkpoint every few minutes, and an exact resume.

Shapes: T tokens, B rows, L positions, E experts.
"""

import random
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from model.batch import RectangularBatch
from model.config import RoutedConfig
from model.layers.router import Router, Routing
from model.loading import load_network
from model.network import CausalLM, cast_matrices
from model.training import losses
from model.training.batches import BatchStream, TrainingBatch, valid_batches
from model.training.checkpoints import Checkpoint, read_checkpoint, write_checkpoint
from model.training.log import LOG_NAME, read_log
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


@dataclass(frozen=True, slots=True, eq=False)
class MicroReport:
    """What one micro-batch gave: losses, tokens, and how many of them each expert of each layer got."""

    loss: float
    balance: float
    tokens: int
    load: list[Tensor]


class Trainer:
    """One run in one directory. Built anew on the same directory, it goes on where the last checkpoint stood.

    With `start_from`, the directory of another run of the same network, a new run begins with that run's weights and
    moments and goes on counting its steps and tokens; data, batches and all else are its own. The recipe's tokens are
    those of both. It may also be the directory of a finished model: then the moments are new and the rate warms up
    again. ValueError where it is neither, or another network.

    `workers` micro-batches run at the same time on one thread each; on a GPU it is 1. The result depends on the number
    of workers only through rounding, and not at all on which of them is faster.
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
        self.optimizer = Optimizer(self.network, recipe.optimizer)  # masters are taken before the cast
        cast_matrices(self.network, getattr(torch, recipe.dtype))
        threads = torch.get_num_threads()
        count = min(workers or threads, recipe.micro_batches) if device == "cpu" else 1
        twins = [share_weights(self.network) for _ in range(count - 1)]
        self.replicas = [Replica(network) for network in (self.network, *twins)]
        self.pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(max(threads // count, 1),))
        streams = {"stable": recipe.stable, "decay": recipe.decay}
        self.streams = {name: self._stream(phase) for name, phase in streams.items()}
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        self.load = [torch.zeros(router.num_experts) for router in self.replicas[0].routers]  # of the last step
        run_dir.mkdir(parents=True, exist_ok=True)
        self.inherited_tokens = 0  # of the runs this one started from
        self.cold_step = 0  # where the moments were new
        checkpoint = read_checkpoint(run_dir, device)
        if checkpoint is not None:
            self._restore(checkpoint)
        elif start_from is not None:
            self._inherit(start_from)

    def _stream(self, phase: Phase) -> BatchStream:
        return BatchStream(
            self.prepared_dir,
            phase.mixture,
            seed=self.recipe.seed,
            batch_tokens=self.recipe.micro_batch_tokens,
            weights=phase.weights,
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
        return [self._micro_step(replica, batches[micro], micro) for micro in mine]

    def _micro_step(self, replica: Replica, batch: TrainingBatch, micro: int) -> MicroReport:
        """Forward and backward of one micro-batch: its gradients are added to the replica's."""
        self._draw_k(replica, micro)
        hidden_TD, routings = replica.network(RectangularBatch(batch.token_ids_BL.to(self.device)))
        weights_T = losses.thinned(batch.weights_BL.flatten(), self._generator(micro))
        loss = self._cross_entropy(replica.network, hidden_TD, batch.targets_BL.flatten(), weights_T)
        real_T = (torch.arange(batch.token_ids_BL.shape[1]) < batch.lengths_B[:, None]).flatten().to(self.device)
        used = [routing for routing in routings if routing is not None]
        loads = [losses.load(routing, real_T) for routing in used]
        balance = loss.new_zeros(())
        for layer, (router, routing) in enumerate(zip(replica.routers, used, strict=True)):
            balance = balance + self._router_losses(router, routing, real_T, self.load[layer] + loads[layer])
        (loss + balance).backward()
        return MicroReport(float(loss.detach()), float(balance.detach()), int(batch.lengths_B.sum()), loads)

    def _draw_k(self, replica: Replica, micro: int) -> None:
        """A number of experts per layer for this micro-batch, from (seed, step, micro) alone."""
        if self.recipe.random_k is None:
            return
        draw = random.Random(f"{self.recipe.seed}/{self.step}/{micro}")
        choices, weights = zip(*self.recipe.random_k.items(), strict=True)
        for router in replica.routers:
            router.k = draw.choices(choices, weights)[0]

    def _generator(self, micro: int) -> torch.Generator:
        """Chance for this micro-batch, from (seed, step, micro) alone: a resumed run draws the same."""
        seed = random.Random(f"{self.recipe.seed}/{self.step}/{micro}/weights").getrandbits(63)
        return torch.Generator().manual_seed(seed)

    def _cross_entropy(self, network: CausalLM, hidden_TD: Tensor, targets_T: Tensor, weights_T: Tensor) -> Tensor:
        arguments = (targets_T.to(self.device), weights_T.to(self.device))
        return losses.cross_entropy(hidden_TD, network.embedding.weight, *arguments)

    def _router_losses(self, router: Router, routing: Routing, real_T: Tensor, load_E: Tensor) -> Tensor:
        """What keeps a router in shape. `load_E` counts the last step and this micro-batch."""
        loss = self.recipe.z_weight * losses.z_loss(routing, real_T) + router.regularize(routing, real_T)
        if router.needs_balance_loss:
            share_E = load_E / load_E.sum().clamp(min=1)
            loss = loss + self.recipe.balance_weight * losses.balance_loss(routing, real_T, share_E)
        return loss

    @torch.no_grad()
    def validate(self, sources: list[str], max_examples: int = 64) -> dict[str, float]:
        """Nats per answer token on the first examples of each validation source, with the configured k."""
        configs = [la.feed_forward for la in self.recipe.model.layers if isinstance(la.feed_forward, RoutedConfig)]
        for router, config in zip(self.replicas[0].routers, configs, strict=True):
            router.k = getattr(config.router, "top_k", router.k)
        result = {}
        for source in sources:
            total = count = 0.0
            for batch in valid_batches(self.prepared_dir, source, max_examples=max_examples):
                hidden_TD, _ = self.network(RectangularBatch(batch.token_ids_BL.to(self.device)))
                targets_T, weights_T = batch.targets_BL.flatten(), batch.weights_BL.flatten()
                weight = float(weights_T.sum())
                total += weight * float(self._cross_entropy(self.network, hidden_TD, targets_T, weights_T))
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

    def _restore(self, checkpoint: Checkpoint) -> None:
        self._restore_weights(checkpoint)
        self.inherited_tokens = checkpoint.state.get("inherited_tokens", 0)
        for name, stream in self.streams.items():
            stream.load_state_dict(checkpoint.state["streams"][name])

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
        self.save()

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
