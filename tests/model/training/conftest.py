"""A few rows of every task, on disk as the data directory has them, and the bundled tokenizer."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers

import model
from model.training.data.prepare import prepare

Rows = list[dict[str, Any]]
BUNDLED = Path(model.__file__).parent / "bundled"
WORDS = ("sun", "moon", "star", "river", "tree", "house", "bird", "stone", "cloud", "road")


def translation(source: str, target: str, target_lang: str = "zh") -> dict[str, Any]:
    return {"task": "translate", "source_lang": "en", "target_lang": target_lang, "source": source, "target": target}


def write_rows(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def sentence(number: int, words: int = 5) -> str:
    return " ".join(WORDS[number // 10**place % 10] for place in range(words))


@pytest.fixture(scope="session")
def tokenizer() -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(BUNDLED / "tokenizer.json"))


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training files of five tasks with different sizes; one gzip-compressed, one not for commercial use."""
    root = tmp_path_factory.mktemp("data")
    labels = ["positive", "negative"]
    chat = [{"role": "user", "content": "Hi there."}, {"role": "assistant", "content": "Hello!"}]
    files: dict[str, Rows] = {
        "translate/tatoeba-en-zh.train.jsonl.gz": [translation(sentence(n), f"第{n}句话。") for n in range(200)],
        "translate/cedict-zh-en.train.jsonl": [translation(f"word {n}", f"词{n}") for n in range(300)],
        "translate/tatoeba-en-zh.valid.jsonl": [translation(f"valid {n}", f"验证{n}") for n in range(9)],
        "summarize/news-en.train.jsonl": [
            {"task": "summarize", "document": sentence(n, 40), "summary": sentence(n, 4)} for n in range(60)
        ],
        "summarize/news-en-nc.train.jsonl": [{"task": "summarize", "document": "secret", "summary": "s"}],
        "analyze/reviews-en.train.jsonl": [
            {"task": "analyze", "text": sentence(n, 9), "label": labels[n % 2], "label_set": labels} for n in range(120)
        ],
        "chat/talk-en.train.jsonl": [
            {"task": "chat", "messages": [*chat, {"role": "user", "content": sentence(n)}, chat[1]]} for n in range(80)
        ],
        "generate/tinystories-en.train.jsonl": [{"task": "generate", "text": sentence(n, 100 + n)} for n in range(90)],
        "generate/classic-fiction-en.train.jsonl": [
            {"task": "generate", "text": sentence(n, 300)} for n in range(1000, 1050)
        ],
    }
    for name, rows in files.items():
        write_rows(root / name, rows)
    return root


@pytest.fixture(scope="session")
def prepared_dir(data_dir: Path, tokenizer: tokenizers.Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prepared")
    prepare(data_dir, tokenizer, out)
    return out
