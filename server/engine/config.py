"""Settings of the engine."""

from dataclasses import dataclass

from server.engine.routing.adaptive_experts import ExpertRange


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Settings of one engine. Lengths are in tokens.

    At most `max_num_seqs` sequences run at once, each step computes at most `max_num_batched_tokens`, and `max_queue`
    more requests may wait, with `max_queue_tokens` prompt tokens and an expected wait of `max_queue_wait` seconds.
    `cache_bytes` is the budget for keys, values and recurrent state (None: 1 GiB, or a fifth of the available memory if
    that is less). At most `snapshot_share` of it is for snapshots of recurrent state, which are taken every
    `snapshot_interval` tokens of a prompt and at the boundaries that requests name. `max_prefill_chunk` limits how many
    tokens of one prompt a step computes.
    While others decode, prompts of more than `long_prefill_token_threshold` tokens are computed in chunks that make a
    step at most about `max_decode_slowdown` times as long as a pure decode step (None: no such limit).
    `adaptive_experts` lets new sequences have fewer experts per token while many requests wait.
    `seed` makes the random seeds reproducible that requests without a seed get.
    """

    max_model_len: int
    eos_token_ids: frozenset[int] = frozenset()
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 1024
    max_queue: int = 256
    max_queue_tokens: int = 2**20
    max_queue_wait: float = 10.0
    block_size: int = 16
    cache_bytes: int | None = None
    snapshot_share: float = 0.25
    snapshot_interval: int = 64
    prefix_caching: bool = True
    max_prefill_chunk: int | None = None
    long_prefill_token_threshold: int = 512
    max_decode_slowdown: float | None = 2.0
    adaptive_experts: ExpertRange | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for a setting with which nothing could run."""
        for name in ("max_model_len", "max_num_seqs", "max_queue_tokens", "block_size", "snapshot_interval"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give 1 or more")
        if self.max_queue < 0:
            raise ValueError(f"max_queue is {self.max_queue}: give 0 (nothing waits) or more")
        if self.max_queue_wait <= 0:
            raise ValueError(f"max_queue_wait is {self.max_queue_wait}: give more than 0 seconds")
        if not 0 <= self.snapshot_share < 1:
            raise ValueError(f"snapshot_share is {self.snapshot_share}: give a part of the budget, from 0 to below 1")
        if self.max_decode_slowdown is not None and self.max_decode_slowdown <= 1:
            raise ValueError(
                f"max_decode_slowdown is {self.max_decode_slowdown}: give more than 1, or None for no limit"
            )
        if self.max_prefill_chunk is not None and self.max_prefill_chunk < 1:
            raise ValueError(f"max_prefill_chunk is {self.max_prefill_chunk}: give 1 or more, or None for no limit")
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError(
                f"max_num_batched_tokens is {self.max_num_batched_tokens}, less than max_num_seqs "
                f"({self.max_num_seqs}): every running sequence needs a token a step; raise the one or lower the other"
            )
