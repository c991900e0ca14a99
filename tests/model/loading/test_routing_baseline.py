"""The usual load of the experts, kept beside the weights."""

from pathlib import Path

import pytest

from model.loading.routing_baseline import BASELINE_NAME, RoutingBaseline

BASELINE = RoutingBaseline(1000, {0: (0.5, 0.5, 0.0), 3: (0.25, 0.25, 0.5)})


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    assert RoutingBaseline.load(tmp_path) is None
    BASELINE.save(tmp_path)
    assert RoutingBaseline.load(tmp_path) == BASELINE


def test_drift_by_hand() -> None:
    assert BASELINE.drift(0, (0.5, 0.5, 0.0)) == 0
    assert BASELINE.drift(0, (0.0, 0.0, 1.0)) == 1, "nothing in common"
    assert BASELINE.drift(3, (0.5, 0.25, 0.25)) == pytest.approx(0.0612781, abs=1e-6)
    assert BASELINE.drift(1, (0.5, 0.5, 0.0)) is None
    assert BASELINE.drift(0, (0.5, 0.5)) is None
    assert BASELINE.drift(0, (0.0, 0.0, 0.0)) is None


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        '{"num_tokens": 1, "shares": {"a": [1]}}',
        '{"num_tokens": 1, "shares": [1]}',
        '{"num_tokens": 1, "shares": {"0": [-0.1, 1.1]}}',
        '{"num_tokens": 1, "shares": {"0": [NaN]}}',
        '{"num_tokens": Infinity, "shares": {}}',
    ],
)
def test_a_damaged_file_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / BASELINE_NAME).write_text(text)
    with pytest.raises(ValueError, match=BASELINE_NAME):
        RoutingBaseline.load(tmp_path)
