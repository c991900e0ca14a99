"""The exact bytes of a chat stream: what other clients' parsers were written against."""

import re

from starlette.testclient import TestClient

from tests.server.applications import Server

GOLDEN = """\
data: {"id":"ID","object":"chat.completion.chunk","created":0,"model":"test-model","choices":[{"index":0,\
"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"usage":null}

data: {"id":"ID","object":"chat.completion.chunk","created":0,"model":"test-model","choices":[{"index":0,\
"delta":{"content":"ä"},"logprobs":null,"finish_reason":null}],"usage":null}

data: {"id":"ID","object":"chat.completion.chunk","created":0,"model":"test-model","choices":[{"index":0,\
"delta":{"content":"\\n"},"logprobs":null,"finish_reason":null}],"usage":null}

data: {"id":"ID","object":"chat.completion.chunk","created":0,"model":"test-model","choices":[{"index":0,\
"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":null}

data: {"id":"ID","object":"chat.completion.chunk","created":0,"model":"test-model","choices":[],\
"usage":{"prompt_tokens":32,"completion_tokens":4,"total_tokens":36,"prompt_tokens_details":{"cached_tokens":0}}}

data: [DONE]

"""


def test_the_bytes_of_a_chat_stream(client: TestClient, server: Server) -> None:
    server.answer_with("ä\n")
    body = {
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    text = client.post("/v1/chat/completions", json=body).content.decode()
    text = re.sub(r"chatcmpl-[0-9a-f]{32}", "ID", text)
    assert re.sub(r'"created":\d+', '"created":0', text) == GOLDEN
