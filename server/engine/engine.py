"""The engine: requests in, tokens out, one step at a time. It is not thread-safe; `AsyncLLM` runs it in one thread."""

import logging
import time
from collections.abc import Callable, Collection

import torch

from model.config import check_experts_per_token
from model.network import CausalLM
from server.engine.cache.layout import plan_cache_layout
from server.engine.config import EngineConfig
from server.engine.grammar.compiler import CompiledGrammar, GrammarCompiler
from server.engine.runner import ModelRunner
from server.engine.sampler import sample
from server.engine.scheduler import Scheduler
from server.engine.step import ModelOutput, SampledTokens, ScheduledBatch
from server.engine.threads import ThreadScaler
from server.engine.types import (
    EngineOutput,
    EngineRequest,
    EngineStats,
    FinishReason,
    LabelLoad,
    RequestTimes,
    StepTokens,
)
from server.engine.validation import check_request

logger = logging.getLogger(__name__)

UNHEALTHY_AFTER = 3  # failed steps in a row
STEP_FAILED = "The step that held this request failed; the server's log says why. Other requests are not affected."


class Engine:
    """Continuous batching of one network. Submit requests, then call `step` until `has_unfinished` is false."""

    def __init__(
        self,
        network: CausalLM,
        config: EngineConfig,
        *,
        device: torch.device | str = "cpu",
        threads: ThreadScaler | None = None,
        grammars: GrammarCompiler | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Allocates the cache. `threads` adapts the number of threads to what the processors have time for.

        Without `grammars`, requests with a grammar are refused.

        Raises ValueError if the budget or the network's context is too small.
        """
        if config.max_model_len > network.config.max_positions:
            raise ValueError(
                f"max_model_len is {config.max_model_len}, but this network knows {network.config.max_positions} "
                "positions: lower max_model_len"
            )
        if config.adaptive_experts is not None:
            check_experts_per_token(network.config, config.adaptive_experts.most)
        _check_eos_token_ids(config.eos_token_ids, network.config.vocab_size)
        self.config = config
        self.layout = plan_cache_layout(config, network.cache_specs(), network.dtype)
        self.scheduler = Scheduler(config, self.layout, grammars=grammars, clock=clock)
        self.runner = ModelRunner(network, self.layout, max_model_len=config.max_model_len, device=device)
        self._threads, self._grammars = threads, grammars
        self._clock = clock
        self._network_config = network.config
        self._adapter_names = network.adapters.names if network.adapters is not None else ()
        self._steps = 0
        self._step_failures = 0
        self._step_tokens = StepTokens()
        self._failures_in_a_row = 0
        self._unfinished: dict[str, float] = {}  # arrival times of the requests without a terminal output

    @property
    def has_unfinished(self) -> bool:
        return self.scheduler.has_unfinished

    def check(self, request: EngineRequest) -> None:
        """Raises ValueError for a request that `submit` would refuse for another reason than its id."""
        check_request(
            request,
            self._network_config,
            max_model_len=self.config.max_model_len,
            adapters=self._adapter_names,
            adaptive_most=self.config.adaptive_experts.most if self.config.adaptive_experts else None,
        )
        if request.sampling.grammar is not None:
            if self._grammars is None:
                raise ValueError("grammars are not available in this engine: leave it out")
            if not isinstance(request.sampling.grammar, CompiledGrammar):
                self._grammars.compile(request.sampling.grammar)

    def submit(self, request: EngineRequest) -> None:
        """Accept a request. Raises ValueError for a request that cannot be served, and for an id that is in use."""
        self.check(request)
        if request.request_id in self._unfinished:
            raise ValueError(f"request id {request.request_id!r} is in use: give each request an id of its own")
        self._unfinished[request.request_id] = request.arrival_time or self._clock()
        self.scheduler.add(request)

    def abort(self, request_id: str) -> list[EngineOutput]:
        """End a request now. Returns its terminal output, or nothing if it is unknown or finished."""
        return self._track_finished(self.scheduler.abort(request_id))

    def step(self, before_kernels: Callable[[], None] = lambda: None) -> list[EngineOutput]:
        """End requests at their deadline, then compute the next tokens.

        `before_kernels` is called when little but compiled code is left to run, or nothing is to be computed: what
        wakes another thread belongs there, since that one then has Python's lock while this step does not need it.

        If that fails, the sequences of the step end with an error, and no others.
        An exception of the scheduler itself is raised: its state is unknown then, and the caller must use `fail_all`.
        """
        return self._track_finished(self.scheduler.time_out() + self._step(before_kernels))

    def _step(self, before_kernels: Callable[[], None]) -> list[EngineOutput]:
        batch = self.scheduler.schedule()
        if batch.is_empty:
            before_kernels()
            return []
        self._steps += 1
        if self._threads is not None and self._threads.update():
            self.runner.decode_graphs.clear()  # their calls contain the number of threads
        started, num_tokens = self._clock(), batch.num_tokens
        try:
            computed, sampled = self._compute(batch, before_kernels)
        except Exception:
            logger.exception("step %d failed; it held %d sequences", self._steps, len(batch.sequences))
            self._count_failure()
            return self.scheduler.fail(batch.sequences, STEP_FAILED)
        outputs = self.scheduler.update(batch, computed, sampled)
        self._failures_in_a_row = 0
        self._step_tokens = self._step_tokens.add(num_tokens)
        self.scheduler.observe_step(
            self._clock() - started, decodes=batch.num_decodes, prefill_tokens=batch.num_prefill_tokens
        )
        if not self.has_unfinished:
            self.runner.expert_load.flush()
        return outputs

    def close(self) -> None:
        """No step follows. Called by the thread that made the steps."""
        if self._threads is not None:
            self._threads.close()

    def fail_all(self) -> list[EngineOutput]:
        """End all requests with an error and free all memory: for failures outside the network."""
        self._count_failure()
        now = self._clock()
        outputs = [
            EngineOutput(
                request_id,
                (),
                finish_reason=FinishReason.ERROR,
                error=STEP_FAILED,
                times=RequestTimes(arrival, finished=now),
            )
            for request_id, arrival in self._unfinished.items()
        ]
        self._unfinished.clear()
        self.scheduler.clear()
        return outputs

    def stats(self) -> EngineStats:
        """The counters between two steps. While the engine is busy, expert loads lag some steps behind."""
        running, usage = self.scheduler.num_running_requests, self.scheduler.cache_usage
        counts = self.scheduler.stats
        return EngineStats(
            running=running,
            waiting=len(self._unfinished) - running,
            kv_blocks_used=usage.kv_blocks,
            kv_blocks_total=self.layout.num_blocks,
            state_slots_used=usage.state_slots,
            state_slots_total=self.layout.num_slots,
            snapshots_used=usage.snapshots,
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
            experts_per_token=self.scheduler.adaptive.number if self.scheduler.adaptive else None,
            step_tokens=self._step_tokens,
        )

    def task_loads(self, minutes: int) -> tuple[LabelLoad, ...]:
        """The experts' load of the last minutes by task. Any thread may call this at any time."""
        return self.runner.expert_load.by_task.load(minutes)

    def tenant_loads(self, minutes: int) -> tuple[LabelLoad, ...]:
        """The same by tenant, without the requests that have none."""
        return self.runner.expert_load.by_tenant.load(minutes)

    def _compute(self, batch: ScheduledBatch, before_kernels: Callable[[], None]) -> tuple[ModelOutput, SampledTokens]:
        computed = self.runner.execute(batch, before_kernels)
        sampled = sample(computed.logits_RV, batch.sampling, computed.rows)
        if failed := computed.failed | sampled.failed:
            logger.warning("step %d: the scores of %d sequences are not finite numbers", self._steps, len(failed))
        return computed, sampled

    def _count_failure(self) -> None:
        self._step_failures += 1
        self._failures_in_a_row += 1

    def _track_finished(self, outputs: list[EngineOutput]) -> list[EngineOutput]:
        """The same outputs; the requests that end with them are not unfinished any more.

        Call this last: after an exception, `fail_all` must know the requests whose outputs are lost.
        """
        for output in outputs:
            if output.finish_reason is not None:
                del self._unfinished[output.request_id]
        return outputs


def _check_eos_token_ids(eos_token_ids: Collection[int], vocab_size: int) -> None:
    for token_id in eos_token_ids:
        if not 0 <= token_id < vocab_size:
            raise ValueError(
                f"{token_id} is to end answers, but the vocabulary has {vocab_size} tokens: mend eos_token_id in "
                "generation_config.json"
            )
