"""Prepared data: what is kept, what is dropped, and that it reads back."""

import json
from pathlib import Path

import pytest
import tokenizers

from model.training.data.examples import ANSWER
from model.training.data.prepare import (
    FORMAT,
    ExtraSource,
    KeptRows,
    SourceCounts,
    is_prepared,
    load_source,
    prepare,
    read_meta,
    source_names,
    tokenizer_digest,
)
from model.training.data.rows import find_sources, read_rows, row_texts
from tests.model.training.conftest import Rows, translation, write_rows


def prepare_rows(tmp_path: Path, tokenizer: tokenizers.Tokenizer, **files: Rows) -> dict[str, SourceCounts]:
    for name, rows in files.items():
        task, source, split = name.split("__")
        write_rows(tmp_path / "data" / task / f"{source}.{split}.jsonl", rows)
    return prepare(tmp_path / "data", tokenizer, tmp_path / "out")


def test_examples_read_back_in_both_directions(tmp_path: Path, tokenizer: tokenizers.Tokenizer) -> None:
    counts = prepare_rows(tmp_path, tokenizer, translate__t__valid=[translation("Hi.", "嗨。")])["translate/t.valid"]
    source = load_source(tmp_path / "out", "translate/t", "valid")
    texts = [tokenizer.decode(source.example(i).token_ids.tolist(), skip_special_tokens=False) for i in range(2)]
    assert "<|en|><|zh|>" in texts[0]
    assert "<|zh|><|en|>" in texts[1]
    answers = int((source.kinds == ANSWER).sum())
    assert counts == SourceCounts(rows=1, examples=2, tokens=len(source.tokens), target_tokens=answers)
    arrays = (source.tokens, source.kinds, source.offsets)
    assert [str(array.dtype) for array in arrays] == ["uint16", "uint8", "int64"]
    assert source.length(0) + source.length(1) == len(source.tokens)


def test_exact_duplicates_inside_a_task_are_dropped(tmp_path: Path, tokenizer: tokenizers.Tokenizer) -> None:
    rows = [translation("Hi.", "嗨。"), translation("Hi.", "嗨。"), translation("Hi.", "你好。")]
    counts = prepare_rows(tmp_path, tokenizer, translate__a__train=rows, translate__b__train=rows[:1])
    assert (counts["translate/a.train"].dropped.duplicates, counts["translate/a.train"].examples) == (1, 4)
    assert (counts["translate/b.train"].dropped.duplicates, counts["translate/b.train"].examples) == (1, 0)
    assert source_names(tmp_path / "out", "train") == ["translate/a"]


@pytest.mark.parametrize(
    ("row", "is_kept"),
    [
        (translation("good MORNING", "早"), False),
        (translation("Hey", "早上好"), False),
        (translation("Good evening.", "晚上好"), True),
    ],
)
def test_training_rows_that_share_a_text_with_validation_are_dropped(
    tmp_path: Path, tokenizer: tokenizers.Tokenizer, row: dict[str, object], is_kept: bool
) -> None:
    valid = [translation("Good morning!", "早上好。")]
    files = {"translate__a__train": [row], "translate__b__valid": valid}
    counts = prepare_rows(tmp_path, tokenizer, **files)["translate/a.train"]
    assert (counts.dropped.in_validation, counts.examples) == ((0, 2) if is_kept else (1, 0))


def test_other_tasks_may_share_texts(tmp_path: Path, tokenizer: tokenizers.Tokenizer) -> None:
    valid = [{"task": "analyze", "text": "Hi.", "label": "a", "label_set": ["a", "b"]}]
    files = {"analyze__a__valid": valid, "translate__b__train": [translation("Hi.", "嗨。")]}
    assert prepare_rows(tmp_path, tokenizer, **files)["translate/b.train"].examples == 2


def test_a_dialogue_with_the_same_last_answer_is_no_leak(tmp_path: Path, tokenizer: tokenizers.Tokenizer) -> None:
    def talk(question: str) -> dict[str, object]:
        return {
            "task": "chat",
            "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": "Thanks!"}],
        }

    counts = prepare_rows(
        tmp_path, tokenizer, chat__a__valid=[talk("Nice.")], chat__a__train=[talk("Cool."), talk("nice")]
    )
    assert (counts["chat/a.train"].dropped.in_validation, counts["chat/a.train"].examples) == (1, 1)


def test_files_for_non_commercial_use_are_left_out(data_dir: Path, prepared_dir: Path) -> None:
    assert (data_dir / "summarize/news-en-nc.train.jsonl").is_file()
    files = {source.name for source in find_sources(data_dir, "train")}
    assert set(source_names(prepared_dir, "train")) == files
    assert "summarize/news-en-nc" not in files
    assert not list(prepared_dir.glob("*/*-nc.*"))


def test_a_name_that_only_begins_with_nc_is_no_matter(tmp_path: Path) -> None:
    for name in ("news-ncaa-en", "news-en-nc"):
        write_rows(tmp_path / "summarize" / f"{name}.train.jsonl", [{"task": "summarize"}])
    assert [source.name for source in find_sources(tmp_path, "train")] == ["summarize/news-ncaa-en"]


def test_compressed_and_plain_files_read_alike(tmp_path: Path) -> None:
    rows = [translation("Hi.", "嗨。")]
    for name in ("a.train.jsonl", "b.train.jsonl.gz"):
        write_rows(tmp_path / "translate" / name, rows)
    assert [list(read_rows(source.path)) for source in find_sources(tmp_path, "train")] == [rows, rows]


def test_backups_are_no_sources(tmp_path: Path) -> None:
    for name in ("a.train.jsonl", "a.train.jsonl.bak", "a.train.jsonl~", "a.train.jsonl.gz.part"):
        write_rows(tmp_path / "translate" / name, [translation("Hi.", "嗨。")])
    assert [source.path.name for source in find_sources(tmp_path, "train")] == ["a.train.jsonl"]


def test_two_files_of_one_source_are_refused(tmp_path: Path) -> None:
    for name in ("a.train.jsonl", "a.train.jsonl.gz", "a.valid.jsonl"):
        write_rows(tmp_path / "translate" / name, [translation("Hi.", "嗨。")])
    with pytest.raises(ValueError, match=r"translate/a is in .* both as a\.train\.jsonl and as a\.train\.jsonl\.gz"):
        find_sources(tmp_path, "train")
    assert [source.name for source in find_sources(tmp_path, "valid")] == ["translate/a"]


def test_preparing_again_gives_the_same_files(
    data_dir: Path, prepared_dir: Path, tokenizer: tokenizers.Tokenizer, tmp_path: Path
) -> None:
    prepare(data_dir, tokenizer, tmp_path)
    for path in sorted(prepared_dir.rglob("*.*")):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / path.relative_to(prepared_dir)).read_bytes(), path


def test_the_tokenizer_is_on_record(prepared_dir: Path, tokenizer: tokenizers.Tokenizer) -> None:
    assert read_meta(prepared_dir)["tokenizer"] == tokenizer_digest(tokenizer)
    other = tokenizers.Tokenizer.from_str(tokenizer.to_str())
    other.add_special_tokens(["<|new|>"])
    assert tokenizer_digest(other) != tokenizer_digest(tokenizer)


def test_data_of_another_format_or_tokenizer_is_not_taken(tmp_path: Path, tokenizer: tokenizers.Tokenizer) -> None:
    assert not is_prepared(tmp_path, tokenizer)
    meta = {"format": FORMAT, "tokenizer": tokenizer_digest(tokenizer), "sources": {}}
    for change, is_usable in (({}, True), ({"format": FORMAT - 1}, False), ({"tokenizer": "other"}, False)):
        (tmp_path / "meta.json").write_text(json.dumps(meta | change))
        assert is_prepared(tmp_path, tokenizer) is is_usable


def test_every_source_is_reported(tokenizer: tokenizers.Tokenizer, tmp_path: Path) -> None:
    shown: dict[str, SourceCounts] = {}
    for name in ("a.train.jsonl", "b.valid.jsonl"):
        write_rows(tmp_path / "data" / "translate" / name, [translation("Hi.", "嗨。")])
    counts = prepare(tmp_path / "data", tokenizer, tmp_path, on_source=lambda name, c: shown.update({name: c}))
    assert shown == counts
    assert set(shown) == {"translate/a.train", "translate/b.valid"}


def test_an_unknown_source_is_refused_with_the_known_ones(prepared_dir: Path) -> None:
    with pytest.raises(
        ValueError, match=r"'translate/none' has no valid part in .*: use one of translate/tatoeba-en-zh"
    ):
        load_source(prepared_dir, "translate/none", "valid")


def test_all_texts_of_a_row_are_found() -> None:
    talk = {"task": "chat", "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    assert list(row_texts(talk)) == [("a", None), ("b", None)]
    assert list(row_texts(translation("Hi.", "嗨。"))) == [("Hi.", "en"), ("嗨。", "zh")]
    assert list(row_texts({"task": "summarize", "document": "d", "summary": "s"})) == [("d", None), ("s", None)]
    assert list(row_texts({"task": "generate", "text": "t"})) == [("t", None)]


def test_a_directory_without_training_files_is_refused(tmp_path: Path, tokenizer: tokenizers.Tokenizer) -> None:
    with pytest.raises(ValueError, match=r"no <task>/<source>\.train\.jsonl in "):
        prepare(tmp_path, tokenizer, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_extra_source_reads_the_kept_rows_it_asks_for(tmp_path: Path, tokenizer: tokenizers.Tokenizer) -> None:
    rows = [{"task": "generate", "text": text} for text in ("One sentence.", "One sentence.", "Another.", "Not kept.")]
    for name in ("a", "b"):
        write_rows(tmp_path / "data" / "generate" / f"{name}.train.jsonl", rows)
    write_rows(tmp_path / "data" / "generate" / "a.valid.jsonl", rows[-1:])
    seen: dict[str, list[str]] = {}

    def made(kept: KeptRows) -> Rows:
        seen.update({name: [row["text"] for row in rows] for name, rows in kept.items()})
        return [{"task": "analyze", "text": "x", "label": "y", "label_set": ["y"]}]

    extra = ExtraSource("analyze/made", made, reads={"generate/a"}.__contains__)
    counts = prepare(tmp_path / "data", tokenizer, tmp_path / "out", extra_sources=[extra])
    assert seen == {"generate/a": ["One sentence.", "Another."]}
    assert counts["analyze/made.train"].examples == 1
    assert len(load_source(tmp_path / "out", "analyze/made", "train")) == 1
