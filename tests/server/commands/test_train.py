"""`routelm train`: what it says when it is stopped."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from model.training.loop.interruption import Interrupted
from server.cli import app


@pytest.mark.parametrize(
    ("interruption", "said"),
    [
        (Interrupted("stopped after 10 of 20 tokens"), "stopped after 10 of 20 tokens; run the same command to go on"),
        (KeyboardInterrupt(), "stopped; run the same command to go on"),
    ],
)
def test_stopping_says_how_to_go_on(
    interruption: KeyboardInterrupt, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise interruption

    monkeypatch.setattr("model.training.pipeline.train", stopped)
    result = CliRunner().invoke(app, ["train", str(tmp_path / "run")])
    assert result.exit_code == 130
    assert said in result.output
