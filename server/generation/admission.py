"""The generations of one request: started all or none, aborted when the request ends."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType

from server.engine.types import DEFAULT_ROUTING, RoutingParams, SamplingParams, SchedulingParams
from server.errors import InvalidRequestError, RequestCancelledError
from server.generation.prompt import Prompt
from server.generation.segments import RETRY_SECONDS, SegmentedPrompt
from server.generation.service import DEFAULT_OPTIONS, DEFAULT_SCHEDULING, GenerationService
from server.generation.stream import RunningGeneration, TextOptions
from server.generation.token_routing import within_bounds


def _ignore_usage(prompt_tokens: int, completion_tokens: int) -> None:
    """The default: usage is not recorded."""


class Admission:
    """Starts the generations of one request and owns them.

    `routing` says how the tokens of all of them are routed, and `adapter` which LoRA adapter computes them (None: the
    model as it is). `generations` holds all that were started, in order; together they are the usage of the request. As
    a context manager it aborts those that still run when the block is left: when the answer was sent, and when the
    client left.
    """

    def __init__(
        self,
        service: GenerationService,
        request_id: str,
        scheduling: SchedulingParams = DEFAULT_SCHEDULING,
        routing: RoutingParams = DEFAULT_ROUTING,
        *,
        cache_salt: str = "",
        record_usage: Callable[[int, int], None] = _ignore_usage,
    ) -> None:
        """`cache_salt` is added to those of prompts. `record_usage(prompt_tokens, completion_tokens)` is called with
        the prompts that were accepted, and at the end with the rest.
        """
        self.service = service
        self.request_id = request_id
        self.scheduling = scheduling
        self.routing = routing
        self.adapter: str | None = None
        self._cache_salt = cache_salt
        self._record_usage = record_usage
        self._recorded_prompt_tokens = 0
        self._is_cancelled = False
        self.generations: list[RunningGeneration] = []
        self.has_begun = asyncio.Event()  # set when the first generation is accepted

    def __enter__(self) -> "Admission":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for generation in self.generations:
            generation.abort()
        if self.generations:
            usages = [generation.usage for generation in self.generations]
            prompt_tokens = sum(usage.prompt_tokens for usage in usages) - self._recorded_prompt_tokens
            self._record_usage(prompt_tokens, sum(usage.completion_tokens for usage in usages))

    def cancel(self) -> None:
        """End all generations with the text so far. What was to be started after them is refused."""
        self._is_cancelled = True
        for generation in self.generations:
            generation.cancel()

    def start(
        self,
        prompts: Sequence[Prompt | SegmentedPrompt],
        sampling: SamplingParams,
        options: TextOptions = DEFAULT_OPTIONS,
        n: int = 1,
        routing: RoutingParams | None = None,
    ) -> list[RunningGeneration]:
        """Start `n` generations per prompt, with another `routing` than that of the request if one is given.

        If one is refused, those that were started are withdrawn. Each of several choices has its own seed. Raises what
        GenerationService.start raises, RequestCancelledError after `cancel`, and InvalidRequestError for more
        generations than the server can ever hold, because trying again would not help.
        """
        if self._is_cancelled:
            raise RequestCancelledError
        self._check_capacity(len(prompts) * n)
        routing = within_bounds(routing or self.routing, self.service.facts, _num_generations(prompts) * n)
        started: list[RunningGeneration] = []
        try:
            for prompt in (prompt.in_namespace(self._cache_salt) for prompt in prompts):
                for choice in _choices(sampling, n):
                    number = len(self.generations) + len(started)
                    started.append(self._start(number, prompt, choice, options, routing))
        except BaseException:
            for generation in started:
                generation.withdraw()
            raise
        self.generations += started
        self._record_prompts(started)
        self.has_begun.set()
        return started

    def _start(
        self,
        number: int,
        prompt: Prompt | SegmentedPrompt,
        sampling: SamplingParams,
        options: TextOptions,
        routing: RoutingParams,
    ) -> RunningGeneration:
        """Start the generation with that number; those after the first are bounded less, see EngineClient.submit."""
        return self.service.start(
            f"{self.request_id}-{number}",
            prompt,
            sampling,
            options,
            self.scheduling,
            routing=routing,
            adapter=self.adapter,
            follow_up=number > 0,
        )

    def _record_prompts(self, started: Sequence[RunningGeneration]) -> None:
        prompt_tokens = sum(generation.usage.prompt_tokens for generation in started)
        self._recorded_prompt_tokens += prompt_tokens
        self._record_usage(prompt_tokens, 0)

    @property
    def model_name(self) -> str:
        """The name of what answers: the adapter's, or the model's own."""
        return self.adapter or self.service.model_id

    async def free_slots(self) -> int:
        """Return how many generations can be started now, at least 1.

        A request that has begun waits for a free slot. One that has not begun does not wait: `start` refuses it. Call
        `start` directly afterwards, in the same task: whenever this task gives way, others may take the slots.
        """
        while self.generations and self._free_capacity() < 1:  # noqa: ASYNC110
            await asyncio.sleep(RETRY_SECONDS)
        return max(1, self._free_capacity())

    def _free_capacity(self) -> int:
        return self.service.engine.free_capacity(self.scheduling)

    def _check_capacity(self, count: int) -> None:
        capacity = self.service.engine.capacity
        if count > capacity:
            raise InvalidRequestError(
                f"This takes {count} generations at once, and this server holds {capacity}: send several smaller "
                "requests."
            )


def _choices(sampling: SamplingParams, n: int) -> list[SamplingParams]:
    """The same `n` times: with the given seed and the ones that follow it, if one was given."""
    seed = sampling.seed
    if seed is None:
        return [sampling] * n
    return [replace(sampling, seed=(seed + choice) % 2**63) for choice in range(n)]


def _num_generations(prompts: Sequence[Prompt | SegmentedPrompt]) -> int:
    return sum(len(prompt.segments) if isinstance(prompt, SegmentedPrompt) else 1 for prompt in prompts)
