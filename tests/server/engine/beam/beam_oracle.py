"""Naive beam search: lists of tokens, all scored again in every step."""

from collections.abc import Callable, Collection
from collections.abc import Sequence as Tokens

Likeliest = Callable[
    [tuple[int, ...], int], Tokens[tuple[int, float]]
]  # (prefix, count) -> tokens and log-probabilities


def beam_search(
    likeliest: Likeliest,
    prompt: Tokens[int],
    max_tokens: int,
    *,
    width: int,
    ends: Collection[int],
    min_tokens: int = 0,
) -> tuple[int, ...]:
    """The best answer; with its end, if it has one, after at least `min_tokens` other tokens."""
    beams: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    finished: list[tuple[float, tuple[int, ...]]] = []
    for _ in range(max_tokens):
        offered = [
            (score + logprob, (*tokens, token))
            for score, tokens in beams
            for token, logprob in likeliest((*prompt, *tokens), width + len(ends))
        ]
        beams = []
        for score, tokens in sorted(offered, key=lambda pair: -pair[0]):
            if len(beams) == width:
                break
            if tokens[-1] in ends:
                if len(tokens) > min_tokens:
                    finished.append((score / ((5 + len(tokens)) / 6), tokens))
            else:
                beams.append((score, tokens))
        if len(finished) >= width:
            break
    return max(finished, key=lambda pair: pair[0])[1] if finished else beams[0][1]
