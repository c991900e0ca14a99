"""One evaluation from start to end: every task of a data directory, on any model."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from model.evaluation.data import TASKS, EvaluationSource, load_sources
from model.evaluation.progress import Progress, SilentProgress
from model.evaluation.report import EvaluationReport, Skipped
from model.evaluation.requests import Model, ModelError, NotSupportedError
from model.evaluation.scores import Outcome, join
from model.evaluation.tasks.analysis import evaluate_analysis
from model.evaluation.tasks.diversity import evaluate_continuations, evaluate_replies
from model.evaluation.tasks.fairness import evaluate_fairness
from model.evaluation.tasks.language_model import evaluate_likelihood
from model.evaluation.tasks.summarization import evaluate_summarization
from model.evaluation.tasks.translation import evaluate_translation

FAIRNESS = "fairness"  # a task that needs no data

Evaluator = Callable[[Model, Sequence[EvaluationSource], Progress], Outcome]

EVALUATORS: dict[str, dict[str, Evaluator]] = {
    "translate": {"translations": evaluate_translation},
    "summarize": {"summaries": evaluate_summarization},
    "analyze": {"labels": evaluate_analysis},
    "chat": {"likelihood of answers": evaluate_likelihood, "sampled answers": evaluate_replies},
    "generate": {"likelihood of texts": evaluate_likelihood, "sampled texts": evaluate_continuations},
}


def evaluate(
    model: Model,
    data_dir: Path,
    tasks: Sequence[str] = (*TASKS, FAIRNESS),
    samples: int | None = None,
    progress: Progress | None = None,
    split: str = "valid",
) -> EvaluationReport:
    """Score `model` on the first `samples` rows (all where None) of each source of `tasks`.

    A task is "fairness", a task of the data directory, or a pattern of sources such as "translate/tatoeba-*". What the
    model cannot do at all is reported as skipped, and so is what it refused or failed at: the rest is kept.
    ValueError for a task without rows, ModelError where nothing could be scored.
    """
    progress = progress or SilentProgress()
    start, outcomes, skipped = time.monotonic(), list[Outcome](), list[Skipped]()
    for what, run_stage in _stages(model, data_dir, tasks, samples, progress, split):
        try:
            outcomes.append(run_stage())
        except (NotSupportedError, ModelError) as error:
            skipped.append(Skipped(what, str(error)))
    if not outcomes:
        raise ModelError(f"nothing could be scored. {skipped[0].what}: {skipped[0].reason}")
    found = join(outcomes)
    seconds = time.monotonic() - start
    return EvaluationReport(model.name, split, seconds, found.scores, found.examples, found.failures, tuple(skipped))


def _stages(
    model: Model, data_dir: Path, tasks: Sequence[str], samples: int | None, progress: Progress, split: str
) -> list[tuple[str, Callable[[], Outcome]]]:
    """The evaluators to run, with their names."""
    with_data = [task for task in tasks if task != FAIRNESS]
    sources = load_sources(data_dir, with_data, samples, split) if with_data else []
    stages: list[tuple[str, Callable[[], Outcome]]] = []
    for task, evaluators in EVALUATORS.items():
        of_task = [source for source in sources if source.task == task]
        for name, evaluator in evaluators.items():
            if of_task:
                stages.append((f"{task}: {name}", partial(evaluator, model, of_task, progress)))
    if FAIRNESS in tasks:
        stages.append((FAIRNESS, partial(evaluate_fairness, model, progress)))
    return stages
