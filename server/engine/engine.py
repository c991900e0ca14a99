"""The engine: requests in, tokens out, one step at a time. Not safe for threads; `AsyncLLM` gives it one."""

import logging
import time
from collections.abc import Callable, Collection

import torch

from model.network import CausalLM
from server.engine.config import EngineConfig, plan_cache_layout
from server.engine.runner import ModelRunner
from server.engine.sampler import sample
from server.engine.scheduler import Scheduler
from server.engine.step import ModelOutput, SampledTokens, ScheduledBatch
from server.engine.types import (
    EngineOutput,
    EngineRequest,
    EngineStats,
    FinishReason,
    RequestTimes,
)
from server.engine.validation import check_request

logger = logging.getLogger(__name__)

UNHEALTHY_AFTER = 3  # failed steps in a row
STEP_FAILED = "The step that held this request failed; the server's log says why. Other requests are not affected."


class Engine:
    """Continuous batching of one network. Submit, then call `step` until `has_unfinished` is false."""

    def __init__(
        self,
        network: CausalLM,
        config: EngineConfig,
        *,
        device: torch.device | str = "cpu",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes the cache's memory. Raises ValueError for a budget too small or a network's context too short."""
        if config.max_model_len > network.config.max_positions:
            raise ValueError(
                f"max_model_len is {config.max_model_len}, but this network knows {network.config.max_positions} "
                "positions: lower max_model_len"
            )
        _check_ends(config.eos_token_ids, network.config.vocab_size)
        self.config = config
        self.layout = plan_cache_layout(config, network.cache_specs(), network.dtype)
        self.scheduler = Scheduler(config, self.layout, clock=clock)
        self.runner = ModelRunner(network, self.layout, max_model_len=config.max_model_len, device=device)
        self._clock = clock
        self._vocab_size = network.config.vocab_size
        self._steps = 0
        self._step_failures = 0
        self._failures_in_a_row = 0
        self._open: dict[str, float] = {}  # arrivals of the requests that have not had their last output

    @property
    def has_unfinished(self) -> bool:
        return self.scheduler.has_unfinished

    def check(self, request: EngineRequest) -> None:
        """Raises ValueError for a request that `submit` would not take, but for its id."""
        check_request(request, vocab_size=self._vocab_size, max_model_len=self.config.max_model_len)

    def submit(self, request: EngineRequest) -> None:
        """Accept a request. Raises ValueError for what cannot be served, and for an id that is in use."""
        self.check(request)
        if request.request_id in self._open:
            raise ValueError(f"request id {request.request_id!r} is in use: give each request an id of its own")
        self._open[request.request_id] = request.arrival_time or self._clock()
        self.scheduler.add(request)

    def abort(self, request_id: str) -> list[EngineOutput]:
        """End a request now; its last output, or nothing if it is unknown or finished."""
        return self._told(self.scheduler.abort(request_id))

    def step(self) -> list[EngineOutput]:
        """Compute the next tokens. A failure ends the sequences of its batch with an error, and no others.

        A mistake of the scheduler's own is raised: nothing is certain then, and `fail_all` is what is left.
        """
        batch = self.scheduler.schedule()
        if batch.is_empty:
            return []
        self._steps += 1
        decodes, prefill_tokens = batch.num_decodes, batch.num_prefill_tokens
        started = self._clock()
        try:
            computed, sampled = self._compute(batch)
        except Exception:
            logger.exception("step %d failed; it held %d sequences", self._steps, len(batch.sequences))
            self._step_failures += 1
            self._failures_in_a_row += 1
            return self._told(self.scheduler.fail(batch.sequences, STEP_FAILED))
        outputs = self._told(self.scheduler.update(batch, computed, sampled))
        self._failures_in_a_row = 0
        if self.scheduler.pace is not None:
            self.scheduler.pace.observe(self._clock() - started, decodes=decodes, prefill_tokens=prefill_tokens)
        if not self.has_unfinished:
            self.runner.expert_load.flush()
        return outputs

    def fail_all(self) -> list[EngineOutput]:
        """End everything with an error and go on with empty memory: for failures outside the network."""
        self._step_failures += 1
        self._failures_in_a_row += 1
        now = self._clock()
        outputs = [
            EngineOutput(
                request_id,
                (),
                finish_reason=FinishReason.ERROR,
                error=STEP_FAILED,
                times=RequestTimes(arrival, finished=now),
            )
            for request_id, arrival in self._open.items()
        ]
        self._open.clear()
        self.scheduler.clear()
        return outputs

    def stats(self) -> EngineStats:
        """The counters between two steps. Expert loads lag some steps behind while the engine is busy."""
        scheduler, counts = self.scheduler, self.scheduler.stats
        running = scheduler.running_requests
        return EngineStats(
            running=running,
            waiting=len(self._open) - running,
            kv_blocks_used=scheduler.cache.blocks.num_used,
            kv_blocks_total=self.layout.num_blocks,
            state_slots_used=self.layout.num_slots - scheduler.cache.states.num_free_slots,
            state_slots_total=self.layout.num_slots,
            snapshots_used=scheduler.cache.states.snapshots_used,
            snapshots_total=self.layout.num_snapshots,
            prompt_tokens=counts.prompt_tokens,
            generation_tokens=counts.generation_tokens,
            prefix_cache_queries=counts.prefix_cache_queries,
            prefix_cache_hits=counts.prefix_cache_hits,
            preemptions=counts.preemptions,
            steps=self._steps,
            step_failures=self._step_failures,
            healthy=self._failures_in_a_row < UNHEALTHY_AFTER,
            layers=self.runner.expert_load.loads,
        )

    def _compute(self, batch: ScheduledBatch) -> tuple[ModelOutput, SampledTokens]:
        computed = self.runner.execute(batch)
        sampled = sample(computed.logits_RV, batch.sampling)
        if failed := computed.failed | sampled.failed:
            logger.warning("step %d: the scores of %d sequences are not finite numbers", self._steps, len(failed))
        return computed, sampled

    def _told(self, outputs: list[EngineOutput]) -> list[EngineOutput]:
        """The outputs, once it is noted whose last ones they are."""
        for output in outputs:
            if output.finish_reason is not None:
                del self._open[output.request_id]
        return outputs


def _check_ends(eos_token_ids: Collection[int], vocab_size: int) -> None:
    for token_id in eos_token_ids:
        if not 0 <= token_id < vocab_size:
            raise ValueError(
                f"{token_id} is to end answers, but the vocabulary has {vocab_size} tokens: mend eos_token_id in "
                "generation_config.json"
            )
