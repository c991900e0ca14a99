"""The exact bytes of streams: what other clients' parsers were written against."""

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


COMPLETION = """\
data: {"id":"ID","object":"text_completion","created":0,"model":"test-model","choices":[{"index":0,"text":"ab",\
"logprobs":{"tokens":["a","b"],"token_logprobs":[-2.1,-0.025],"top_logprobs":[{"a":-2.1},{"b":-0.025}],\
"text_offset":[0,1]},"finish_reason":null}]}

data: {"id":"ID","object":"text_completion","created":0,"model":"test-model","choices":[{"index":0,"text":"\\n",\
"logprobs":{"tokens":["\\n"],"token_logprobs":[-1.675],"top_logprobs":[{"\\n":-1.675}],"text_offset":[2]},\
"finish_reason":null}]}

data: {"id":"ID","object":"text_completion","created":0,"model":"test-model","choices":[{"index":0,"text":"",\
"logprobs":null,"finish_reason":"stop"}]}

data: [DONE]

"""


def test_the_bytes_of_a_completion_stream(client: TestClient, server: Server) -> None:
    server.answer_with("b\n")
    body = {"prompt": "a", "stream": True, "echo": True, "logprobs": 0, "max_tokens": 5}
    text = client.post("/v1/completions", json=body).content.decode()
    text = re.sub(r"cmpl-[0-9a-f]{32}", "ID", text)
    assert re.sub(r'"created":\d+', '"created":0', text) == COMPLETION
