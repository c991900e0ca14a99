"""Settings with which nothing could run are refused."""

import pytest

from server.engine.config import EngineConfig


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_num_seqs": 0}, "max_num_seqs is 0"),
        ({"max_num_batched_tokens": 8}, "every running sequence needs a token"),
        ({"max_queue": -1}, "max_queue is -1"),
        ({"snapshot_share": 1.0}, "snapshot_share is 1.0"),
        ({"max_prefill_chunk": 0}, "max_prefill_chunk is 0"),
        ({"block_size": 0}, "block_size is 0"),
    ],
)
def test_settings_nothing_can_run_with_are_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EngineConfig(64, **changes)  # type: ignore[arg-type]
