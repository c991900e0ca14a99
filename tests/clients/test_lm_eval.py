"""lm-eval, which most figures about models come from: log-likelihoods and answers over both endpoints."""

import json
import math
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import requests
from live_server import CONTEXT, MODEL, TOKENIZER
from lm_eval.tasks import TaskManager

ROWS = [
    {"question": "Once upon a time there was a little", "choices": [" girl", " of"], "answer": 0},
    {"question": "The sun is in the", "choices": [" and", " sky"], "answer": 1},
]
TASKS = {
    "choices": """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
target_delimiter: ""
metric_list: [{metric: acc}]
""",
    "answers": """
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[answer]}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 8, temperature: 0}
metric_list: [{metric: exact_match}]
""",
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> TaskManager:
    folder = tmp_path_factory.mktemp("tasks")
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    for name, text in TASKS.items():
        source = f"task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {rows}}}}}\ntest_split: test"
        (folder / f"{name}.yaml").write_text(f"{source}{text}")
    return TaskManager(include_path=str(folder), include_defaults=False)


@pytest.fixture
def evaluate(tasks: TaskManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))

    def run(model: str, url: str, task: str, **options: Any) -> Any:
        arguments = {"base_url": url, "model": MODEL, "max_length": CONTEXT, "tokenizer": str(TOKENIZER), **options}
        found = lm_eval.simple_evaluate(
            model,
            model_args=arguments,
            tasks=[task],
            task_manager=tasks,
            bootstrap_iters=0,
            apply_chat_template="chat" in model,
        )
        return found["samples"][task]

    return run


def score(base_url: str, prompt: str, continuation: str) -> float:
    """The log-likelihood by one plain request. lm-eval adds no special tokens either, unless told so."""
    asked = {"prompt": prompt + continuation, "echo": True, "logprobs": 1, "max_tokens": 0, "add_special_tokens": False}
    found = requests.post(f"{base_url}/completions", json=asked, timeout=60).json()["choices"][0]["logprobs"]
    values = zip(found["text_offset"], found["token_logprobs"], strict=True)
    return math.fsum(value for offset, value in values if offset >= len(prompt))


@pytest.mark.parametrize("options", [{"tokenizer_backend": "huggingface"}, {"tokenizer_backend": "remote"}])
def test_log_likelihoods_of_completions(evaluate: Any, base_url: str, options: dict[str, Any]) -> None:
    samples = evaluate("local-completions", f"{base_url}/completions", "choices", **options)
    for sample in samples:
        row = sample["doc"]
        found = [float(response[0][0]) for response in sample["resps"]]
        assert found == pytest.approx([score(base_url, row["question"], each) for each in row["choices"]], abs=1e-3)
    assert [sample["acc"] for sample in samples] == [1, 1]


def test_answers_of_completions(evaluate: Any, base_url: str) -> None:
    samples = evaluate("local-completions", f"{base_url}/completions", "answers")
    assert all(sample["resps"][0][0] for sample in samples)


def test_answers_of_chat(evaluate: Any, base_url: str) -> None:
    options = {"tokenizer_backend": None, "tokenizer": None}
    samples = evaluate("local-chat-completions", f"{base_url}/chat/completions", "answers", **options)
    assert all(sample["resps"][0][0] for sample in samples)
