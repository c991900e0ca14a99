"""What a result file says of where its figures come from."""

import json
from pathlib import Path

import pytest

from benchmarks import record
from model.kernels.library import library_path, source_digest


def test_a_result_names_the_libraries_it_ran_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    written = json.loads(record.write("speed", {"tokens/s": 3}).read_text())
    assert written["figures"] == {"tokens/s": 3}
    kernels = written["circumstances"]["kernels"]
    for name, _, digest in (line.partition(" of ") for line in kernels):
        source, level = name.removesuffix(".so").split("_")
        assert library_path(source, level).exists()
        assert source_digest().startswith(digest)


def test_a_result_without_compiled_kernels_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "load_library", lambda source: None)
    assert record.circumstances()["kernels"] == []


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [record.percentile(values, share) for share in (0.0, 0.5, 0.99)] == [1.0, 50.0, 99.0]
    assert record.percentile([7.0], 0.99) == 7.0
