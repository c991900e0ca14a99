"""Where prompts go: the replica with the longest prefix, unless it has too much to do."""

import json
import random
from collections.abc import Callable, Sequence

import pytest

from server.ray_serve.prefix_index import (
    BLOCK_CHARACTERS,
    HEAD_BYTES,
    MAX_BLOCKS,
    PrefixAffinity,
    PrefixIndex,
    prefix_digests,
)

REPLICAS = ("a", "b", "c")
IDLE = dict.fromkeys(REPLICAS, 0)


def chat(*texts: str, **fields: object) -> bytes:
    roles = ("system", "user", "assistant", "user")
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    return json.dumps({"messages": messages, **fields}).encode()


def shared(one: Sequence[bytes], other: Sequence[bytes]) -> int:
    """How many digests are equal, from the first on."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def test_prompts_share_the_digests_of_their_common_beginning() -> None:
    system = "You are a helpful assistant. " * 10
    one, other = prefix_digests(chat(system, "What is a mixture of experts?")), prefix_digests(chat(system, "x" * 200))
    assert len(system) // BLOCK_CHARACTERS - 1 <= shared(one, other) <= len(system) // BLOCK_CHARACTERS + 1
    assert shared(one, prefix_digests(chat(f"!{system}", "x"))) == 0


def test_a_later_turn_continues_the_digests_of_the_earlier_one() -> None:
    first = prefix_digests(chat("s" * 100, "u" * 100))
    assert shared(first, prefix_digests(chat("s" * 100, "u" * 100, "a" * 100, "u" * 100))) == len(first) > 1


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "p" * 300},
        {"prompt": ["p" * 300, "q"]},
        {"prompt": list(range(300))},
        {"input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "p" * 300}]}]},
        {"system": "s" * 300, "messages": [{"role": "user", "content": "u"}]},
        {"text": "t" * 300, "target_lang": "de"},
    ],
)
def test_every_api_has_digests(body: dict[str, object]) -> None:
    digests = prefix_digests(json.dumps(body).encode())
    assert len(digests) >= 300 // BLOCK_CHARACTERS
    changed = prefix_digests(json.dumps({**body, "temperature": 1}).encode())
    assert changed == digests, "only what is in the prompt counts"


@pytest.mark.parametrize("field", ["model", "cache_salt"])
def test_what_keeps_prefixes_apart_in_the_cache_keeps_digests_apart(field: str) -> None:
    one, other = [prefix_digests(chat("s" * 200, **{field: value})) for value in ("x", "y")]
    assert shared(one, other) == 0


@pytest.mark.parametrize("body", [b"", b"no JSON", b"[1, 2]", b'"text"', b"null", b"\xff\xfe", b'{"messages": 5}'])
def test_bodies_that_are_no_request_have_no_digests(body: bytes) -> None:
    assert prefix_digests(body) == ()


def test_a_long_body_is_looked_at_to_a_bound() -> None:
    body = chat("é" * 4 * HEAD_BYTES, "u")
    digests = prefix_digests(body)
    assert len(digests) == MAX_BLOCKS
    assert digests == prefix_digests(chat("é" * 5 * HEAD_BYTES, "other"))


def test_deeply_nested_bodies_are_no_trouble() -> None:
    assert prefix_digests(b'{"messages": ' + b"[" * 10_000) == ()


def test_the_index_finds_who_was_sent_most_of_a_prompt() -> None:
    index = PrefixIndex(capacity=100)
    index.record((b"1", b"2"), "a")
    index.record((b"1", b"2", b"3"), "b")
    index.record((b"9",), "c")
    assert index.longest_match((b"1", b"2", b"3", b"4"), REPLICAS) == {"b"}
    assert index.longest_match((b"1", b"2"), REPLICAS) == {"a", "b"}
    assert index.longest_match((b"1", b"2", b"3"), ("a", "c")) == {"a"}
    assert index.longest_match((b"3",), ("a", "c")) == set()
    assert index.longest_match((), REPLICAS) == set()


def test_the_index_is_bounded_and_forgets_the_ends_of_old_prompts_first() -> None:
    index = PrefixIndex(capacity=3)
    index.record((b"1", b"2"), "a")
    index.record((b"8", b"9"), "b")
    assert len(index) == 3
    assert index.longest_match((b"1", b"2"), REPLICAS) == {"a"}
    index.record((b"8", b"9"), "b")
    index.record((b"7",), "c")
    assert index.longest_match((b"1", b"2"), REPLICAS) == set()
    assert index.longest_match((b"8", b"9"), REPLICAS) == {"b"}


def test_replicas_that_are_gone_are_forgotten() -> None:
    index = PrefixIndex(capacity=100)
    index.record((b"1",), "a")
    index.record((b"1", b"2"), "b")
    index.keep({"a", "c"})
    assert index.longest_match((b"1", b"2"), REPLICAS) == {"a"}
    assert len(index) == 1


def test_a_prompt_goes_where_its_prefix_is() -> None:
    affinity = PrefixAffinity()
    affinity.index.record((b"1", b"2"), "b")
    assert affinity.rank((b"1", b"2", b"3"), IDLE)[0] == ["b"]


def test_an_overloaded_replica_gets_nothing_for_its_prefixes() -> None:
    affinity = PrefixAffinity(max_load_factor=1.25, light_load=8)
    affinity.index.record((b"1",), "b")
    assert affinity.rank((b"1",), {"a": 0, "b": 8, "c": 0})[0] == ["b"], "8 requests are no load"
    for ranks in (
        affinity.rank((b"1",), {"a": 0, "b": 9, "c": 0}),
        affinity.rank((b"1",), {"a": 90, "b": 120, "c": 70}),
    ):
        assert ranks[0] == []
        assert sorted(ranks[1]) == ["a", "c"]


def test_some_replica_is_always_offered() -> None:
    draw = random.Random(3)
    for _ in range(200):
        loads = {replica: draw.randrange(40) for replica in REPLICAS[: draw.randint(1, 3)]}
        assert len(PrefixAffinity().rank((b"1",), loads)[1]) >= 1
    assert PrefixAffinity().rank((b"1",), {}) == [[], []]


def test_routers_that_do_not_know_of_each_other_send_a_new_prefix_to_the_same_places() -> None:
    replicas = {f"replica-{number}": 0 for number in range(20)}
    places = [PrefixAffinity().rank((bytes([number]),), replicas)[1] for number in range(100)]
    again = [PrefixAffinity().rank((bytes([number]),), replicas)[1] for number in range(100)]
    assert places == again
    assert len({replica for pair in places for replica in pair}) > 15, "different prefixes go to different places"


def test_prompts_without_a_block_are_spread() -> None:
    affinity = PrefixAffinity()
    assert {affinity.rank((), IDLE)[1][0] for _ in range(100)} == set(REPLICAS)


def hit_rate(route: Callable[[PrefixAffinity, tuple[bytes, ...]], str]) -> float:
    """Of blocks. Three replicas remember 64 each and get 600 prompts, of 16 groups with 8 blocks in common."""
    draw, affinity = random.Random(5), PrefixAffinity()
    caches = {replica: PrefixIndex(capacity=64) for replica in REPLICAS}
    hits = blocks = 0
    for number in range(600):
        group = draw.randrange(16)
        digests = (*(b"%d/%d" % (group, n) for n in range(8)), b"own %d" % number)
        replica = route(affinity, digests)
        hits += next((n for n in range(9, 0, -1) if caches[replica].longest_match(digests[n - 1 : n], [replica])), 0)
        blocks += len(digests)
        caches[replica].record(digests, replica)
        affinity.index.record(digests, replica)
    return hits / blocks


def test_affinity_finds_more_in_the_caches_than_random_routing() -> None:
    draw = random.Random(7)

    def by_affinity(affinity: PrefixAffinity, digests: tuple[bytes, ...]) -> str:
        best, others = affinity.rank(digests, IDLE)
        return (best or others)[0]

    by_chance = hit_rate(lambda affinity, digests: draw.choice(REPLICAS))
    assert hit_rate(by_affinity) > 0.8
    assert by_chance < 0.5
