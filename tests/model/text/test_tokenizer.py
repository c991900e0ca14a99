"""The tokenizer: exact both ways, deaf to special tokens in texts, and streaming whole characters."""

import json
import time
import timeit
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders

import model
from model.text.special_tokens import SPECIAL_TOKENS
from model.text.tokenizer import Tokenizer

BUNDLED = Path(model.__file__).parent / "bundled"
TOKENIZER = Tokenizer.load(BUNDLED)
TOKEN_IDS = st.lists(st.integers(0, TOKENIZER.vocab_size - 1), max_size=12)
BYTE_IDS = st.lists(st.integers(32, 32 + 255), max_size=40)


def _byte_fallback(*more: str) -> Tokenizer:
    """A tokenizer as SentencePiece makes them: what is not in the vocabulary is written as bytes."""
    tokens = ["<unk>", "▁", "h", "▁h", *(f"<0x{byte:02X}>" for byte in range(256)), *more]
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    model = tokenizers.models.BPE(vocabulary, [("▁", "h")], unk_token="<unk>", byte_fallback=True)
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="always")
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    backend.add_special_tokens(["<s>"])
    return Tokenizer(backend.to_str())


BYTE_FALLBACK = _byte_fallback()
BOTH = pytest.mark.parametrize("tokenizer", [TOKENIZER, BYTE_FALLBACK], ids=["byte level", "byte fallback"])


def byte_ids(tokenizer: Tokenizer, data: bytes) -> list[int]:
    """The ids that stand for one byte each."""
    ids = {tokenizer.token_bytes(token_id): token_id for token_id in reversed(range(tokenizer.vocab_size))}
    return [ids[bytes([byte])] for byte in data]


@given(st.text())
def test_decoding_gives_the_text_back(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@given(st.text())
def test_the_bytes_of_the_tokens_are_the_bytes_of_the_text(text: str) -> None:
    assert b"".join(map(TOKENIZER.token_bytes, TOKENIZER.encode(text))) == text.encode()


@given(st.lists(st.sampled_from([*SPECIAL_TOKENS, "<|", "|>", "im_end", "a", "你"]), max_size=6))
def test_special_tokens_in_a_text_stay_text(pieces: list[str]) -> None:
    text = "".join(pieces)
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.special_ids.isdisjoint(ids)
    assert TOKENIZER.decode(ids) == text


@pytest.mark.parametrize(("token_id", "token"), list(enumerate(SPECIAL_TOKENS)))
def test_special_tokens_have_fixed_ids_and_are_read_where_allowed(token_id: int, token: str) -> None:
    assert TOKENIZER.encode(token, allow_special=True) == [token_id]
    assert TOKENIZER.special_tokens[token] == token_id


def test_threads_do_not_disturb_each_other() -> None:
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda n: TOKENIZER.encode("<|im_end|>", allow_special=n % 2 == 0) == [2], range(400)))
    assert results == [number % 2 == 0 for number in range(400)]


@pytest.mark.parametrize("encode", [TOKENIZER.encode, TOKENIZER.encode_with_offsets, TOKENIZER.encode_document])
def test_other_threads_run_while_a_long_text_is_encoded(encode: Callable[[str], object]) -> None:
    ticks, done = [0], Event()

    def tick() -> None:
        while not done.wait(0.001):
            ticks[0] += 1

    with ThreadPoolExecutor(1) as pool:
        pool.submit(tick)
        before = ticks[0]
        encode("快速的棕色狐狸" * 30_000)
        during = ticks[0] - before
        done.set()
    assert during > 20  # with the interpreter locked all the time there could be a few at each end


def test_offsets_are_the_places_of_the_tokens() -> None:
    tokens = TOKENIZER.encode_with_offsets("Hello 你好, world")
    places = zip(tokens.starts, tokens.ends, strict=True)
    assert "".join("Hello 你好, world"[start:end] for start, end in places) == "Hello 你好, world"
    assert tokens.ids == TOKENIZER.encode("Hello 你好, world")


@pytest.mark.parametrize("allow_special", [True, False])
def test_ids_are_the_same_with_and_without_offsets(allow_special: bool) -> None:
    text = "<|im_start|>Hello 你好<|im_end|>"
    assert TOKENIZER.encode(text, allow_special) == TOKENIZER.encode_with_offsets(text, allow_special).ids
    assert TOKENIZER.encode(text, allow_special) != TOKENIZER.encode(text, not allow_special)


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(ValueError, match="character 2"):
        TOKENIZER.encode("ab\ud800")


def test_ids_outside_the_vocabulary_are_nothing() -> None:
    assert TOKENIZER.token_bytes(99_999) == b""
    assert TOKENIZER.decode([99_999, *TOKENIZER.encode("hi")]) == "hi"


def test_a_document_begins_with_the_end_of_text_token() -> None:
    assert TOKENIZER.encode_document("hi") == [0, *TOKENIZER.encode("hi")]
    assert TOKENIZER.encode_document("hi", add_special_tokens=False) == TOKENIZER.encode("hi")


def test_special_tokens_in_a_document_are_read_unless_that_is_turned_off() -> None:
    text = "hi <|im_end|>"
    assert TOKENIZER.encode_document(text) == [0, *TOKENIZER.encode(text, allow_special=True)]
    assert TOKENIZER.encode_document(text, allow_special=False) == [0, *TOKENIZER.encode(text)]


def test_all_bytes_and_nothing_else_have_a_token_of_their_own() -> None:
    values = [TOKENIZER.token_bytes(token_id) for token_id in range(32, TOKENIZER.vocab_size)]
    assert {value for value in values if len(value) == 1} == {bytes([byte]) for byte in range(256)}
    assert b"" not in values


# Streaming


@pytest.mark.parametrize("text", ["你好，世界！龘靐", "👩‍👩‍👧 family 🏳️‍🌈", "naïve café", "Grüße"])
def test_pieces_are_whole_characters_and_join_to_the_text(text: str) -> None:
    stream = TOKENIZER.stream()
    pieces = [stream.push([token_id]) for token_id in TOKENIZER.encode(text)]
    assert "".join(pieces) == text
    assert "\ufffd" not in "".join(pieces)
    assert stream.finish() == ""


def test_decoding_tokens_one_by_one_would_break_characters() -> None:
    assert "\ufffd" in "".join(TOKENIZER.decode([token_id]) for token_id in TOKENIZER.encode("龘靐"))


@given(st.one_of(TOKEN_IDS, BYTE_IDS), st.integers(1, 4))
def test_streaming_any_ids_gives_what_decoding_gives(ids: list[int], step: int) -> None:
    stream = TOKENIZER.stream()
    pieces = [stream.push(ids[start : start + step]) for start in range(0, len(ids), step)]
    assert "".join(pieces) + stream.finish() == TOKENIZER.decode(ids)


@given(st.text("h 你é👩\n"), st.integers(1, 4))
def test_streaming_with_byte_fallback_gives_the_text(text: str, step: int) -> None:
    ids = BYTE_FALLBACK.encode(text)
    stream = BYTE_FALLBACK.stream()
    pieces = [stream.push(ids[start : start + step]) for start in range(0, len(ids), step)]
    assert "".join(pieces) + stream.finish() == BYTE_FALLBACK.decode(ids)


@given(st.lists(st.integers(0, 300), max_size=40))
def test_streaming_any_ids_with_byte_fallback_does_not_break_off(ids: list[int]) -> None:
    stream = BYTE_FALLBACK.stream()
    text = "".join(stream.push([token_id]) for token_id in ids) + stream.finish()
    whole = BYTE_FALLBACK.decode(ids)
    assert "\ufffd" in whole or text == whole


@pytest.mark.parametrize("token", ["é", "a  b", "｜é"])
def test_an_added_token_streams_as_it_decodes(token: str) -> None:
    backend = tokenizers.Tokenizer.from_str((BUNDLED / "tokenizer.json").read_text(encoding="utf-8"))
    backend.add_tokens([token])
    tokenizer = Tokenizer(backend.to_str())
    ids = [backend.token_to_id(token), *tokenizer.encode("x")]
    assert tokenizer.stream().push(ids) == tokenizer.decode(ids)


@BOTH
def test_half_a_character_comes_out_at_the_end(tokenizer: Tokenizer) -> None:
    stream = tokenizer.stream()
    half = byte_ids(tokenizer, b"\xe4\xbd")
    assert stream.push(half) == ""
    assert stream.finish() == tokenizer.decode(half)
    assert stream.finish() == ""


@BOTH
def test_special_tokens_inside_a_character_do_not_break_it(tokenizer: Tokenizer) -> None:
    first, *others = byte_ids(tokenizer, "你".encode())
    stream = tokenizer.stream()
    assert stream.push([first, *[min(tokenizer.special_ids)] * 20, 99_999, *others]) == "你"


@BOTH
@pytest.mark.parametrize("kind", ["half", "special", "unknown"])
def test_tokens_that_make_no_character_take_time_in_proportion_to_their_number(tokenizer: Tokenizer, kind: str) -> None:
    ids = {"half": byte_ids(tokenizer, b"\xe4"), "special": [min(tokenizer.special_ids)], "unknown": [99_999]}

    def seconds(count: int) -> float:
        def push() -> None:
            stream = tokenizer.stream()
            for _ in range(count):
                stream.push(ids[kind])

        return min(timeit.repeat(push, timer=time.thread_time, number=1, repeat=5))

    assert seconds(2_000) < 3 * 8 * seconds(250)


def test_special_tokens_can_be_shown_or_left_out() -> None:
    assert TOKENIZER.stream().push([2, *TOKENIZER.encode("a")]) == "a"
    assert TOKENIZER.stream(skip_special=False).push([2, *TOKENIZER.encode("a")]) == "<|im_end|>a"


# Loading


def _checkpoint(directory: Path, **files: object) -> Path:
    (directory / "tokenizer.json").write_text((BUNDLED / "tokenizer.json").read_text(encoding="utf-8"))
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))
    return directory


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"generation_config": {"eos_token_id": [2, 0, 2]}}, (2, 0)),
        ({"generation_config": {"eos_token_id": 0}, "tokenizer_config": {"eos_token": "<|im_end|>"}}, (0, 2)),
        ({"config": {"eos_token_id": [5, 2]}, "generation_config": {"eos_token_id": 2}}, (2, 5)),
        ({"config": {"text_config": {"eos_token_id": 5}}, "tokenizer_config": {"eos_token": "<|im_end|>"}}, (5, 2)),
        ({"generation_config": {}, "tokenizer_config": {"eos_token": {"content": "<|im_end|>"}}}, (2,)),
        ({}, ()),
    ],
)
def test_end_tokens_come_from_the_checkpoint(
    tmp_path: Path, files: dict[str, object], expected: tuple[int, ...]
) -> None:
    assert Tokenizer.load(_checkpoint(tmp_path, **files)).eos_token_ids == expected


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config": {"eos_token": "<nothing>"}, "generation_config": {"eos_token_id": 2}},
        {"config": {"eos_token_id": [2, -1]}},
        {"config": {"eos_token_id": [2, 9_000], "vocab_size": 9_000}},
    ],
)
def test_an_end_token_that_the_model_cannot_generate_is_left_out(
    tmp_path: Path, files: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    assert Tokenizer.load(_checkpoint(tmp_path, **files)).eos_token_ids == (2,)
    assert "is left out" in caplog.text


def test_an_end_token_of_a_padded_vocabulary_is_kept(tmp_path: Path) -> None:
    config = {"eos_token_id": TOKENIZER.vocab_size + 5, "vocab_size": TOKENIZER.vocab_size + 10}
    assert Tokenizer.load(_checkpoint(tmp_path, config=config)).eos_token_ids == (TOKENIZER.vocab_size + 5,)


def test_a_missing_or_broken_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no tokenizer\.json"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": 1}')
    with pytest.raises(ValueError, match="cannot be read"):
        Tokenizer.load(tmp_path)


def test_truncation_in_the_file_is_switched_off() -> None:
    backend = tokenizers.Tokenizer.from_str((BUNDLED / "tokenizer.json").read_text(encoding="utf-8"))
    backend.enable_truncation(2)
    backend.enable_padding(length=9)
    assert len(Tokenizer(backend.to_str()).encode("a b c d")) == 4


@pytest.mark.parametrize("token", ["<0x%02", "<0x1F,", "<0x+1>", "<0x 1>", "<0x١٢>", "<0x1F>\n"])
def test_tokens_that_only_begin_like_a_byte_are_text(token: str) -> None:
    tokenizer = _byte_fallback(token)
    assert tokenizer.token_bytes(4 + 256) == token.encode()


def test_vocabularies_with_byte_fallback_know_their_bytes() -> None:
    ids = BYTE_FALLBACK.encode("h h你")
    assert b"".join(map(BYTE_FALLBACK.token_bytes, ids)) == " h h你".encode()


def test_transformers_gives_the_same_ids() -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(BUNDLED)
    text = "Hello, 世界! Straße 123 don't\n\n  x"
    assert theirs(text).input_ids == TOKENIZER.encode(text)
    assert (theirs.eos_token_id, theirs.pad_token_id) == (2, 0)
