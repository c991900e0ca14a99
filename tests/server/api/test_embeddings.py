"""Embeddings of a tiny checkpoint, compared with transformers; what other checkpoints and wrong bodies get."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient
from transformers import Qwen3Model

from server.settings import Settings
from server.startup.app import create_app
from server.startup.backend import prepare_backend
from tests.server.embedding_checkpoint import PROMPTS, expected, write_embedding_checkpoint

TEXTS = ["What is the capital of China?", "Gravity", "", "你好, and more", "x" * 300]


def served(directory: Path, **changes: Any) -> TestClient:
    given = {"dtype": "float32", "threads": 1, "cache_bytes": 2**26, "max_num_seqs": 8, "max_num_batched_tokens": 96}
    settings = Settings(model=str(directory), **(given | changes))
    return TestClient(create_app(settings, prepare_backend(settings)), raise_server_exceptions=False)


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TestClient, Qwen3Model]]:
    directory = tmp_path_factory.mktemp("embedder")
    network = write_embedding_checkpoint(directory)
    with served(directory) as client:
        yield client, network


def vectors(client: TestClient, path: str = "/v1/embeddings", **body: Any) -> Any:
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    return torch.tensor([item["embedding"] for item in response.json()["data"]])


def error(client: TestClient, **body: Any) -> dict[str, Any]:
    response = client.post("/v1/embeddings", json=body)
    assert response.status_code == 400, response.text
    found: dict[str, Any] = response.json()["error"]
    return found


def test_embeddings_are_those_of_sentence_transformers(embedder: tuple[TestClient, Qwen3Model]) -> None:
    client, network = embedder
    found = vectors(client, input=TEXTS)
    torch.testing.assert_close(found, expected(network, TEXTS), atol=1e-5, rtol=0)
    other = expected(network, ["another text"])[0]
    assert float((found - other).abs().max(dim=1).values.min()) > 1e-2  # negative control: texts differ by far more


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("normalize", [True, False])
def test_other_ways_to_pool(tmp_path: Path, pooling: str, normalize: bool) -> None:
    network = write_embedding_checkpoint(tmp_path, pooling=pooling, normalize=normalize)
    with served(tmp_path) as client:
        for _ in range(2):  # the second time the prefix cache has the texts, which must not shorten what is pooled
            found = vectors(client, input=TEXTS)
            wanted = expected(network, TEXTS, pooling, normalize=normalize)
            torch.testing.assert_close(found, wanted, atol=1e-4 if not normalize else 1e-5, rtol=1e-4)


@pytest.mark.compiled_kernels
@pytest.mark.parametrize("pooling", ["lasttoken", "mean"])
def test_a_text_has_the_same_bits_alone_and_beside_others(tmp_path: Path, pooling: str) -> None:
    write_embedding_checkpoint(tmp_path, pooling=pooling)
    texts = [f"{number} " + "text " * number for number in range(30)]
    with served(tmp_path) as client:
        together = vectors(client, input=texts)
    with served(tmp_path, max_num_batched_tokens=32) as client:
        alone = torch.cat([vectors(client, input=text) for text in reversed(texts)])
    assert torch.equal(together, alone.flip(0))


def test_the_shape_of_the_answer(embedder: tuple[TestClient, Qwen3Model]) -> None:
    client, _ = embedder
    response = client.post("/v1/embeddings", json={"input": ["ab", "c"], "user": "me", "keep_alive": 5})
    answer = response.json()
    assert list(answer) == ["object", "data", "model", "usage", "warnings"]
    assert (answer["object"], answer["usage"]) == ("list", {"prompt_tokens": 5, "total_tokens": 5})
    assert [(item["object"], item["index"], len(item["embedding"])) for item in answer["data"]] == [
        ("embedding", 0, 64),
        ("embedding", 1, 64),
    ]
    assert answer["warnings"] == ["keep_alive: ignored, it has no effect here."]
    assert response.headers["X-RouteLM-Warnings"] == "keep_alive"


def test_base64_is_the_same_vector_as_float32(embedder: tuple[TestClient, Qwen3Model]) -> None:
    client, _ = embedder
    answer = client.post("/v1/embeddings", json={"input": "ab", "encoding_format": "base64"}).json()
    decoded = np.frombuffer(base64.b64decode(answer["data"][0]["embedding"]), dtype="<f4")
    assert torch.equal(torch.tensor(decoded), vectors(client, input="ab")[0])


def test_token_ids_are_used_as_they_are(embedder: tuple[TestClient, Qwen3Model]) -> None:
    client, _ = embedder
    by_text = vectors(client, input="ab")
    token_ids = [64 + 1, 64 + 2, 256]
    assert torch.equal(vectors(client, input=token_ids), vectors(client, input=[token_ids]))
    found = client.post("/v1/tokenize", json={"prompt": "ab"}).json()["tokens"]
    assert torch.equal(vectors(client, input=[*found, 256]), by_text)


def test_special_tokens_in_a_text_are_text(embedder: tuple[TestClient, Qwen3Model]) -> None:
    client, _ = embedder
    tokens = client.post("/v1/tokenize", json={"prompt": "a<|endoftext|>", "parse_special": False}).json()["tokens"]
    assert torch.equal(vectors(client, input="a<|endoftext|>"), vectors(client, input=[*tokens, 256]))


def test_a_prompt_of_the_checkpoint_is_put_before_each_text(embedder: tuple[TestClient, Qwen3Model]) -> None:
    client, network = embedder
    found = vectors(client, input=["a", "b"], prompt_name="query")
    wanted = expected(network, [PROMPTS["query"] + "a", PROMPTS["query"] + "b"])
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    assert "query, document" in error(client, input="a", prompt_name="passage")["message"]


def test_dimensions_only_where_the_checkpoint_was_trained_for_them(
    embedder: tuple[TestClient, Qwen3Model], tmp_path: Path
) -> None:
    assert error(embedder[0], input="a", dimensions=8)["param"] == "dimensions"
    network = write_embedding_checkpoint(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"matryoshka_dimensions": [8, 32]}))
    with served(tmp_path) as client:
        found = vectors(client, input=TEXTS, dimensions=8)
        wanted = torch.nn.functional.normalize(expected(network, TEXTS)[:, :8], dim=-1)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
        assert "8, 32" in error(client, input="a", dimensions=16)["message"]


def test_more_dimensions_than_the_vectors_have_are_refused(tmp_path: Path) -> None:
    write_embedding_checkpoint(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"is_matryoshka": True}))
    with served(tmp_path) as client:
        assert vectors(client, input="a", dimensions=64).shape == (1, 64)
        assert "have 64" in error(client, input="a", dimensions=65)["message"]


def test_what_cannot_be_embedded_is_refused(embedder: tuple[TestClient, Qwen3Model]) -> None:
    client, _ = embedder
    assert error(client, input="x" * 600)["code"] == "context_length_exceeded"
    assert error(client, input=[[300]])["param"] == "input"
    assert error(client, input=[])["param"] == "input"
    assert error(client, input=["a"] * 2049)["param"] == "input"
    assert error(client, encoding_format="float")["code"] == "missing_required_parameter"
    assert error(client, input="a", encoding_format="ubinary")["param"] == "encoding_format"


def test_a_model_without_the_files_gets_a_clear_400(client: TestClient) -> None:
    found = error(client, input="a")
    assert (found["param"], found["code"]) == ("model", "unsupported_model")
    assert "sentence-transformers" in found["message"]
