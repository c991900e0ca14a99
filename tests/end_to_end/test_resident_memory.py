"""What an idle server of the bundled model takes: memory is there for the requests, not before them."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch

from tests.end_to_end.conftest import server_process

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="reads memory where Linux shows it"),
    pytest.mark.skipif(torch.version.cuda is not None, reason="a torch with CUDA takes more by itself"),
]


def anonymous_mib(pid: int) -> int:
    """Memory that no file backs: what is resident of the mapped libraries depends on the system's page cache."""
    found = re.search(r"^Anonymous: +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) // 1024


@pytest.fixture
def server() -> Iterator[tuple[str, int]]:
    """URL and process id of a server with default settings."""
    with server_process() as found:
        yield found


def test_an_idle_server_is_small_and_grows_with_its_requests(server: tuple[str, int]) -> None:
    url, pid = server
    idle = anonymous_mib(pid)
    assert idle <= 260
    body = {"prompt": "Once upon a time, " * 500, "max_tokens": 10}
    httpx.post(f"{url}/v1/generate", json=body, timeout=60, trust_env=False).raise_for_status()
    assert idle < anonymous_mib(pid) < idle + 100
