"""The log of a run: read as it was written, cut back and sample_lines out."""

from pathlib import Path

from model.training.loop.log import LogLine, RunLog, sample_lines
from tests.model.training.conftest import BUNDLED


def line(step: int, tokens_per_second: float = 50.0) -> LogLine:
    valid = {"a": 1.0} if step % 100 == 7 else None
    return LogLine(
        step=step, tokens=10 * step, loss=5.0, max_violation=0.5, tokens_per_second=tokens_per_second, valid=valid
    )


def test_the_log_that_ships_is_written_as_it_was_read(tmp_path: Path) -> None:
    """The format on disk: old runs had fewer figures."""
    stored = RunLog(BUNDLED)
    assert len(stored.lines()) > 100
    RunLog(tmp_path).write(stored.lines())
    assert RunLog(tmp_path).path.read_bytes() == stored.path.read_bytes()


def test_a_thin_log_keeps_its_end_and_its_validations() -> None:
    steps = [line.step for line in sample_lines([line(n) for n in range(1, 1004)], keep=50)]
    assert steps == sorted(steps)
    assert steps[-1] == 1003
    assert {7, 107, 907} < set(steps)
    assert 50 <= len(steps) <= 65
    short = [line(n) for n in range(1, 21)]
    assert sample_lines(short, keep=50) == short


def test_steps_that_will_be_done_again_are_forgotten(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.forget_after(0)
    assert log.lines() == []
    for step in (1, 2, 3):
        log.append(line(step))
    log.forget_after(2)
    log.append(line(3, 70.0))
    assert log.lines() == [line(1), line(2), line(3, 70.0)]


def test_a_line_that_was_cut_off_is_dropped(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.append(line(1))
    text = log.path.read_text()
    log.path.write_text(text + text[:20])
    assert log.lines() == [line(1)]
    log.forget_after(1)
    log.append(line(2))
    assert log.lines() == [line(1), line(2)]
