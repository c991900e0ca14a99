"""Perplexity before and after."""

from model.evaluation.precision import perplexities
from model.evaluation.report import EvaluationReport
from model.evaluation.scores import Score


def report(**values: float) -> EvaluationReport:
    scores = [Score(f"generate/{name}", "en", "perplexity", value, None, 5, "lower") for name, value in values.items()]
    other = Score("generate/a", "en", "bits per byte", 1.0, None, 5, "lower")
    return EvaluationReport("m", "valid", 1.0, (*scores, other))


def test_common_sources_side_by_side() -> None:
    lines = perplexities(report(a=10.0, b=20.0), report(a=10.5, c=7.0), "int8").splitlines()
    assert lines[0] == "| source | part | perplexity as stored | as int8 | change |"
    assert lines[2:] == ["| generate/a | en | 10.00 | 10.50 | +5.00% |"]
