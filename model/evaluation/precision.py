"""What fewer bits cost: perplexity of the same texts before and after."""

from model.evaluation.report import EvaluationReport
from model.evaluation.tables import table

LIKELIHOOD_TASKS = ("chat", "generate")


def perplexities(before: EvaluationReport, after: EvaluationReport, scheme: str) -> str:
    """A Markdown table of the sources that both reports have."""
    known = {(score.source, score.part): score.value for score in before.scores if score.metric == "perplexity"}
    rows = [
        (score.source, score.part, f"{was:.2f}", f"{score.value:.2f}", f"{score.value / was - 1:+.2%}")
        for score in after.scores
        if score.metric == "perplexity" and (was := known.get((score.source, score.part))) is not None
    ]
    return table(("source", "part", "perplexity as stored", f"as {scheme}", "change"), rows)
