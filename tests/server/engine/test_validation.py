"""What the engine refuses, and that it says why."""

from typing import Any

import pytest

from server.engine.types import RoutingParams
from server.engine.validation import check_request
from tests.server.engine.tiny import request, tiny_config


def check(prompt: list[int], max_tokens: int = 4, **changes: Any) -> None:
    check_request(request("a", prompt, max_tokens, **changes), tiny_config(vocab_size=100), max_model_len=20)


@pytest.mark.parametrize(
    ("prompt", "changes", "message"),
    [
        ([], {}, "the prompt is empty"),
        ([5, 100], {}, "token id 100: this model knows 0 to 99"),
        ([-1, 5], {}, "token id -1"),
        ([5] * 17, {}, "17 tokens and max_tokens is 4, together more than the 20"),
        ([5], {"max_tokens": -1}, "max_tokens is -1"),
        ([5], {"routing": RoutingParams(5)}, "experts_per_token is 5: this takes 1 to 4"),
        ([5, 6], {"boundaries": (0,)}, "boundaries"),
        ([5, 6], {"boundaries": (3,)}, "boundaries"),
        ([5, 6], {"boundaries": (2, 1)}, "boundaries"),
        ([5], {"temperature": -0.1}, "temperature is -0.1"),
        ([5], {"temperature": float("nan")}, "temperature is nan"),
        ([5], {"top_k": -1}, "top_k is -1"),
        ([5], {"top_p": 0.0}, "top_p is 0.0"),
        ([5], {"min_p": 1.1}, "min_p is 1.1"),
        ([5], {"repetition_penalty": 0.0}, "repetition_penalty is 0.0"),
        ([5], {"presence_penalty": float("inf")}, "presence_penalty is inf"),
        ([5], {"logit_bias": ((3, float("nan")),)}, r"logit_bias\[3\] is nan"),
        ([5], {"logit_bias": ((100, 1.0),)}, "name token id 100"),
        ([5], {"logit_bias": ((3, 1.0), (3, 2.0))}, "logit_bias names a token id twice"),
        ([5], {"stop_token_ids": frozenset({-1})}, "name token id -1"),
        ([5], {"min_tokens": -1}, "min_tokens is -1"),
        ([5], {"logprobs": 101}, "logprobs is 101"),
        ([5], {"beam_width": 2, "max_tokens": 0}, "give max_tokens of 1 or more"),
    ],
)
def test_refused(prompt: list[int], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(prompt, **changes)


def test_accepted() -> None:
    check([0, 99] * 8, boundaries=(1, 16), temperature=0.0, top_p=1.0, logprobs=0, logit_bias=((99, -100.0),))
