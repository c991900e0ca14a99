"""Replicas on Ray Serve: one is killed under load, they become fewer and more, and prompts find their prefixes."""

import asyncio
import importlib.util
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from .files import DEPLOY, yaml_document
from .ray_cluster import REPLICAS, RayCluster, ray_cluster

pytestmark = [
    pytest.mark.slow,
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore"),  # of Ray
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed: pip install '.[ray]'"),
]

STREAMS = 18
TOKENS = 120  # of an answer
CUT_TOKENS = 480  # of an answer that a replica has not finished when it is killed, on fast machines too
GROUPS, TURNS = 12, 6  # prompts of a group have the beginning in common
WORDS = ("river", "stone", "lamp", "cloud", "wheel", "paper", "garden", "silver", "window", "bread", "north", "music")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    with ray_cluster(tmp_path_factory.mktemp("ray")) as cluster:
        yield cluster


@dataclass
class Answer:
    """A streamed completion, as its client sees it."""

    prompt: str
    max_tokens: int = TOKENS
    texts: list[str] = field(default_factory=list)
    errors: list[dict[str, Any]] = field(default_factory=list)
    ends: int = 0
    status: int = 0
    under_way: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    async def ask(self, client: httpx.AsyncClient) -> "Answer":
        body = {"prompt": self.prompt, "max_tokens": self.max_tokens, "temperature": 0, "ignore_eos": True}
        async with client.stream("POST", "/v1/completions", json=body | {"stream": True}) as response:
            self.status = response.status_code
            async for line in response.aiter_lines():
                self._take(line.removeprefix("data: "))
        return self

    def _take(self, data: str) -> None:
        if data == "[DONE]":
            self.ends += 1
        elif data.startswith("{"):
            event = json.loads(data)
            if "error" in event:
                self.errors.append(event["error"])
            else:
                self.texts.extend(choice["text"] for choice in event["choices"])
        if len(self.texts) > 3 or self.ends or self.errors:
            self.under_way.set()


def prompts(count: int, seed: int, words: int = 12) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=words)) for _ in range(count)]


def test_serve_knows_all_options_of_the_file() -> None:
    """Its own schema ignores what it does not know."""
    from ray.serve.config import AutoscalingConfig, RequestRouterConfig
    from ray.serve.schema import DeploymentSchema, ServeDeploySchema

    document = yaml_document(DEPLOY / "ray/serve.yaml")
    ServeDeploySchema.model_validate(document)
    (application,) = document["applications"]
    for options in application["deployments"]:
        assert options.keys() <= DeploymentSchema.model_fields.keys()
        assert options["autoscaling_config"].keys() <= AutoscalingConfig.model_fields.keys()
        assert options.get("request_router_config", {}).keys() <= RequestRouterConfig.model_fields.keys()


async def test_a_replica_dies_and_only_its_requests_end_with_an_error(cluster: RayCluster) -> None:
    cluster.deploy()
    async with cluster.client() as client:
        answers = [Answer(prompt, CUT_TOKENS) for prompt in prompts(STREAMS, seed=1)]
        asking = [asyncio.create_task(answer.ask(client)) for answer in answers]
        await asyncio.gather(*(answer.under_way.wait() for answer in answers))
        await asyncio.to_thread(cluster.kill, cluster.replicas()[0])
        await asyncio.gather(*asking)

        assert [answer.ends for answer in answers] == [1] * STREAMS, "each stream has one end"
        failed = [answer for answer in answers if answer.errors]
        assert 0 < len(failed) < STREAMS
        assert {len(answer.errors) for answer in failed} == {1}
        assert {answer.errors[0]["code"] for answer in failed} == {"unavailable"}
        repeated = await asyncio.gather(*(Answer(answer.prompt, CUT_TOKENS).ask(client) for answer in answers))
        for answer, again in zip(answers, repeated, strict=True):
            assert (again.status, again.errors) == (200, [])
            assert again.text.startswith(answer.text) if answer.errors else again.text == answer.text


async def test_requests_before_their_first_token_get_503_and_a_time(cluster: RayCluster) -> None:
    cluster.deploy()
    async with cluster.client() as client:
        body = {"max_tokens": CUT_TOKENS, "temperature": 0, "ignore_eos": True}
        asking = [
            asyncio.create_task(client.post("/v1/completions", json={"prompt": prompt, **body}))
            for prompt in prompts(STREAMS, seed=2)
        ]
        last = Answer("a stream that is sent after them")
        asking_last = asyncio.create_task(last.ask(client))
        await last.under_way.wait()  # so are those before it
        await asyncio.to_thread(cluster.kill, cluster.replicas()[0])
        responses = await asyncio.gather(*asking)
        await asking_last
        assert {response.status_code for response in responses} == {200, 503}
        for response in responses:
            if response.status_code == 503:
                assert response.json()["error"]["code"] == "unavailable"
                assert int(response.headers["retry-after"]) >= 1


async def test_nothing_is_lost_when_replicas_become_fewer_and_more(cluster: RayCluster) -> None:
    cluster.deploy()
    async with cluster.client() as client:
        asked = await asyncio.gather(*(Answer(prompt).ask(client) for prompt in prompts(6, seed=3)))
        wanted = {answer.prompt: answer.text for answer in asked}
        scaling, answers = asyncio.Event(), []

        async def keep_asking(prompt: str) -> None:
            while not scaling.is_set():
                answers.append(await Answer(prompt).ask(client))

        asking = [asyncio.create_task(keep_asking(prompt)) for prompt in wanted]
        for replicas in (1, REPLICAS):
            await asyncio.to_thread(cluster.deploy, replicas)
            await asyncio.sleep(3)
        scaling.set()
        await asyncio.gather(*asking)
        assert len(answers) > 2 * len(wanted)
        assert [answer.errors for answer in answers if answer.errors] == []
        assert all(answer.ends == 1 and answer.text == wanted[answer.prompt] for answer in answers)


async def hit_rate(cluster: RayCluster, seed: int) -> float:
    """The share of prompt tokens that replicas had in their caches, for groups of prompts that begin alike."""
    draw = random.Random(seed)
    beginnings = prompts(GROUPS, seed, words=150)
    bodies = [
        {"prompt": f"{beginnings[group]} {turn} {draw.random()}", "max_tokens": 1}
        for turn in range(TURNS)
        for group in draw.sample(range(GROUPS), GROUPS)
    ]
    async with cluster.client() as client:
        usages = [(await client.post("/v1/completions", json=body)).json()["usage"] for body in bodies]
    cached = sum(usage["prompt_tokens_details"]["cached_tokens"] for usage in usages)
    return cached / sum(usage["prompt_tokens"] for usage in usages)


async def test_prompts_go_where_their_prefix_is(cluster: RayCluster) -> None:
    from ray.serve.config import RequestRouterConfig

    cluster.deploy()
    by_prefix = await hit_rate(cluster, seed=4)
    await asyncio.to_thread(cluster.deploy, request_router_config=RequestRouterConfig())
    by_chance = await hit_rate(cluster, seed=5)
    print(f"cached share of prompt tokens: {by_prefix:.3f} by prefix, {by_chance:.3f} by Serve's two random choices")
    assert by_prefix > by_chance + 0.1
