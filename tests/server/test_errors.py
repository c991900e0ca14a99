"""The error tree: OpenAI's shape, honest headers."""

import json

import pytest

from server.errors import (
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    PromptTooLongError,
    RequestError,
    UnauthorizedError,
    UnavailableError,
)


def test_an_error_has_openais_four_fields() -> None:
    error = InvalidRequestError("temperature: too hot.", param="temperature")
    assert error.status == 400
    assert error.body() == {
        "error": {
            "message": "temperature: too hot.",
            "type": "invalid_request_error",
            "param": "temperature",
            "code": "invalid_value",
        }
    }


@pytest.mark.parametrize(("seconds", "header"), [(0.0, "1"), (0.2, "1"), (1.0, "1"), (2.1, "3"), (60.0, "60")])
def test_retry_after_is_whole_seconds_rounded_up(seconds: float, header: str) -> None:
    assert OverloadedError("full", retry_after=seconds).headers() == {"Retry-After": header}


def test_only_what_waiting_helps_has_retry_after() -> None:
    assert UnavailableError("stopping", retry_after=1).headers() == {"Retry-After": "1"}
    assert InvalidRequestError("wrong").headers() == {}
    assert UnauthorizedError("no key").headers() == {"WWW-Authenticate": "Bearer"}


def test_the_specific_ones_say_what_clients_look_for() -> None:
    assert PromptTooLongError("too long").code == "context_length_exceeded"
    missing = ModelNotFoundError("gpt-9", "routelm")
    assert (missing.status, missing.code, missing.param) == (404, "model_not_found", "model")
    assert "gpt-9" in missing.message
    assert "routelm" in missing.message


def test_lone_surrogates_of_a_client_can_be_sent_back() -> None:
    body = RequestError("field \ud800 is unknown", param="\ud800").body()
    assert json.dumps(body, ensure_ascii=False).encode()
    assert body["error"]["param"] == "\\ud800"
