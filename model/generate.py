"""Naive decoding of one sequence without a cache between tokens. The engine is tested against it."""

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from model.batch import ForwardBatch
from model.cache import CacheStorage
from model.network import CausalLM

BLOCK_SIZE = 16


def greedy(logits_V: Tensor, position: int) -> int:
    """The token with the highest logit; the lowest id among equals."""
    return int((logits_V == logits_V.max()).nonzero()[0])


@torch.inference_mode()
def generate(
    network: CausalLM,
    prompt: Sequence[int],
    max_tokens: int,
    *,
    stop: Collection[int] = (),
    choose: Callable[[Tensor, int], int] = greedy,
) -> list[int]:
    """Continue `prompt` by up to `max_tokens` tokens, ending after a token in `stop`. Returns the new tokens.

    `choose(logits_V, position)` selects the token at `position`.
    """
    tokens = list(prompt)
    while len(tokens) < len(prompt) + max_tokens:
        hidden_TD = sequence_hidden(network, tokens)
        tokens.append(choose(network.logits(hidden_TD[-1:])[0], len(tokens)))
        if tokens[-1] in stop:
            break
    return tokens[len(prompt) :]


@torch.inference_mode()
def sequence_logprobs(network: CausalLM, tokens: Sequence[int]) -> Tensor:
    """The log-probability of every token but the first, given the tokens before it: float32 [T - 1]."""
    logprobs_TV = network.logits(sequence_hidden(network, tokens)).log_softmax(-1)
    return logprobs_TV[:-1].gather(1, torch.tensor(tokens[1:])[:, None]).squeeze(1)


def sequence_hidden(network: CausalLM, tokens: Sequence[int]) -> Tensor:
    """Hidden states of a whole sequence [T, D], computed in one step on a new cache."""
    hidden_TD, _ = network(whole_sequence(network, tokens))
    return hidden_TD


def whole_sequence(network: CausalLM, tokens: Sequence[int]) -> ForwardBatch:
    """All tokens of one sequence, on a new cache."""
    blocks = -(-len(tokens) // BLOCK_SIZE)
    return ForwardBatch(
        token_ids_T=torch.tensor(tokens),
        positions_T=torch.arange(len(tokens)),
        query_starts_S1=torch.tensor([0, len(tokens)], dtype=torch.int32),
        block_table_SB=torch.arange(blocks, dtype=torch.int32)[None],
        state_rows_S=torch.zeros(1, dtype=torch.int32),
        cache=CacheStorage(
            network.cache_specs(), num_blocks=blocks, block_size=BLOCK_SIZE, num_rows=1, dtype=network.dtype
        ),
    )
