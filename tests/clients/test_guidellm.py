"""GuideLLM, a load generator, with its defaults: it streams, and asks for usage in every chunk."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from live_server import TOKENIZER

REQUESTS = 12
TOKENS = 8


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_every_request_succeeds(url: str, tmp_path: Path, path: str) -> None:
    report = tmp_path / "report.json"
    options = {
        "backend": f"kind=openai_http,target={url},request_format={path}",
        "profile": "kind=synchronous",
        "constraint": f"kind=max_requests,count={REQUESTS}",
        "tokenizer": f"kind=huggingface_auto,model={TOKENIZER}",
        "data": f"kind=synthetic_text,prompt_tokens=32,output_tokens={TOKENS}",
        "output": f"kind=json,path={report}",
    }
    command = [str(Path(sys.executable).with_name("guidellm")), "run", "--disable-console"]
    command += [word for name, value in options.items() for word in (f"--{name}", value)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    metrics = json.loads(report.read_text())["benchmarks"][0]["metrics"]
    assert metrics["request_totals"] == {"successful": REQUESTS, "errored": 0, "incomplete": 0, "total": REQUESTS}
    assert metrics["output_token_count"]["successful"]["mean"] == TOKENS
    assert metrics["time_to_first_token_ms"]["successful"]["count"] == REQUESTS
