"""OpenAI's Python client: files and batches from the upload to the answers."""

import json
import time
from collections.abc import Iterator

import openai
import pytest
from live_server import MODEL
from openai.types import Batch

ENDPOINT = "/v1/chat/completions"
FINAL = ("completed", "failed", "expired", "cancelled")


@pytest.fixture
def client(base_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=base_url, api_key="unused", max_retries=0) as client:
        yield client


def requests(count: int, **body: object) -> bytes:
    """The same chat with answers of different lengths."""
    chat = {"model": MODEL, "messages": [{"role": "user", "content": "How are you?"}], "temperature": 0} | body
    lines = (
        {"custom_id": f"r{n}", "method": "POST", "url": ENDPOINT, "body": {"max_tokens": n + 1} | chat}
        for n in range(count)
    )
    return "\n".join(map(json.dumps, lines)).encode()


def finished(client: openai.OpenAI, batch: Batch) -> Batch:
    deadline = time.monotonic() + 120
    while batch.status not in FINAL:
        assert time.monotonic() < deadline, batch
        time.sleep(0.1)
        batch = client.batches.retrieve(batch.id)
    return batch


def test_a_batch_from_the_upload_to_the_answers(client: openai.OpenAI) -> None:
    file = client.files.create(
        file=("requests.jsonl", requests(6)),
        purpose="batch",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert (file.filename, file.purpose, file.bytes) == ("requests.jsonl", "batch", len(requests(6)))
    assert file.expires_at == file.created_at + 3600
    assert client.files.wait_for_processing(file.id).status == "processed"
    created = client.batches.create(
        input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h", metadata={"night": "first"}
    )
    batch = finished(client, created)
    assert (batch.status, batch.metadata) == ("completed", {"night": "first"})
    assert batch.request_counts is not None
    assert batch.request_counts.model_dump() == {"total": 6, "completed": 6, "failed": 0}
    assert batch.output_file_id is not None
    lines = [json.loads(line) for line in client.files.content(batch.output_file_id).iter_lines()]
    assert [line["custom_id"] for line in lines] == [f"r{n}" for n in range(6)]
    direct = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "How are you?"}], temperature=0, max_tokens=6
    )
    answer = openai.types.chat.ChatCompletion.model_validate(lines[5]["response"]["body"])
    assert answer.choices[0].message.content == direct.choices[0].message.content


def test_files_are_listed_described_and_deleted(client: openai.OpenAI) -> None:
    files = [client.files.create(file=(f"{n}.jsonl", b"x"), purpose="batch") for n in range(3)]
    pages = client.files.list(purpose="batch", limit=1)
    listed = [file.id for file in pages]  # the client asks for page after page
    assert listed[:3] == [file.id for file in reversed(files)]
    assert client.files.retrieve(files[0].id) == files[0]
    assert client.files.content(files[0].id).read() == b"x"
    for file in files:
        assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(files[0].id)


def test_batches_are_listed_and_cancelled(client: openai.OpenAI) -> None:
    file = client.files.create(file=("long.jsonl", requests(200, max_tokens=500, ignore_eos=True)), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h")
    assert next(iter(client.batches.list(limit=1))).id == batch.id
    with pytest.raises(openai.ConflictError):
        client.files.delete(file.id)
    assert client.batches.cancel(batch.id).status == "cancelling"
    ended = finished(client, batch)
    assert ended.status == "cancelled"
    assert ended.error_file_id is not None
    assert "batch_cancelled" in client.files.content(ended.error_file_id).text


def test_errors_have_their_classes(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.batches.create(input_file_id="file-nothing", endpoint=ENDPOINT, completion_window="24h")
    with pytest.raises(openai.BadRequestError) as caught:
        client.files.create(file=("x.jsonl", b"x"), purpose="fine-tune")
    assert caught.value.param == "purpose"
    file = client.files.create(file=("x.jsonl", b"{}\n"), purpose="batch")
    failed = finished(client, client.batches.create(input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h"))
    assert failed.status == "failed"
    assert failed.errors is not None
    assert failed.errors.data is not None
    assert failed.errors.data[0].line == 1
