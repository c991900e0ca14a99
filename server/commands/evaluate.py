"""`routelm evaluate`: scores of a model beside those of trivial baselines."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.commands.common.errors import errors_in_one_line

if TYPE_CHECKING:
    from model.evaluation.progress import RichProgress
    from model.evaluation.report import EvaluationReport
    from model.evaluation.tasks.interview import Interview
    from model.loading.quality import ExpertsRow
    from server.commands.url_model import UrlModel

TASK_NAMES = "translate, summarize, analyze, chat, generate, fairness, or a pattern such as translate/tatoeba-*"


def evaluate(
    model: Annotated[str, typer.Argument(help="A checkpoint directory, `bundled`, or the URL of a running server.")],
    data: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Directory of JSON Lines files. (needed unless --interview)"),
    ] = None,
    task: Annotated[list[str] | None, typer.Option(help=f"{TASK_NAMES}; may be repeated. (default: all)")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Rows per source. (default: all)")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Directory for evaluation.json, .md and quality.json. (default: print only)")
    ] = None,
    card_of: Annotated[
        Path | None, typer.Option(help="Directory of the bundled model's training run: writes its card to --out.")
    ] = None,
    quantize: Annotated[
        str | None, typer.Option(help="int8 or int4: score it so, and show perplexity before and after.")
    ] = None,
    experts_per_token: Annotated[
        int | None, typer.Option(min=1, help="Experts each token goes to. (default: the model's)")
    ] = None,
    compare_experts: Annotated[
        list[int] | None, typer.Option(min=1, help="Also score some tasks with so many experts per token; repeatable.")
    ] = None,
    interview: Annotated[
        bool, typer.Option("--interview", help="Ask everyday questions instead; shows scores and the transcript.")
    ] = False,
    questions: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="File of interview questions. (default: our own)")
    ] = None,
) -> None:
    """Score a model on validation data, with 95 % intervals, next to copying, majority and word-count baselines.

    routelm evaluate bundled --data DIR --samples 100

    Any server with OpenAI's API can be scored: routelm evaluate http://127.0.0.1:8000 --data DIR

    Everyday questions, with a transcript: routelm evaluate bundled --interview
    """
    from server.commands.endpoints import ServerError

    settings = {"quantize": quantize, "experts_per_token": experts_per_token}
    with errors_in_one_line(ImportError, ServerError):
        if interview:
            _interview(model, questions, settings, out)
        elif data is None:
            raise ValueError("there is nothing to score: give --data DIR, or --interview")
        else:
            _evaluate(model, data, task, samples, out, card_of, compare_experts or (), settings)


def _evaluate(
    model: str,
    data: Path,
    tasks: Sequence[str] | None,
    samples: int | None,
    out: Path | None,
    card_of: Path | None,
    compare_experts: Sequence[int],
    settings: Mapping[str, Any],
) -> None:
    """Score the tasks and show the report, or write it to `out`."""
    from model.bundled_recipe.model_card import bundled_card

    report = _report(model, data, tasks, samples, settings)
    if out is not None:
        _save(report, out)  # what else is asked for may fail
    if compare_experts:
        rows = tuple(_experts_row(model, data, samples, settings, number) for number in compare_experts)
        report = replace(report, experts=rows)
    if settings["quantize"] is not None:
        typer.echo(_cost_of_precision(model, data, samples, settings))
    if out is None:
        typer.echo(report.to_markdown())
        return
    _save(report, out)
    if card_of is not None:
        interview = _asked(model, None, settings).outcome()
        report = replace(report, scores=report.scores + interview.scores, examples=report.examples + interview.examples)
        for name, text in bundled_card(card_of, report, samples).items():
            (out / name).write_text(text, encoding="utf-8")
    typer.echo(f"wrote {', '.join(path.name for path in sorted(out.iterdir()))} to {out}")


def _save(report: "EvaluationReport", out: Path) -> None:
    from model.evaluation.verdicts import quality_of

    out.mkdir(parents=True, exist_ok=True)
    (out / "evaluation.json").write_text(report.to_json(), encoding="utf-8")
    (out / "evaluation.md").write_text(report.to_markdown(), encoding="utf-8")
    quality_of(report).save(out)


def _report(
    model: str, data: Path, tasks: Sequence[str] | None, samples: int | None, settings: Mapping[str, Any]
) -> "EvaluationReport":
    from model.evaluation.data import TASKS
    from model.evaluation.run import FAIRNESS, evaluate

    with _served(model, settings) as (served, progress):
        return evaluate(served, data, tasks or (*TASKS, FAIRNESS), samples, progress)


def _interview(model: str, questions: Path | None, settings: Mapping[str, Any], out: Path | None) -> None:
    """Ask the questions and show scores and transcript, or write them to interview.json and interview.md."""
    from model.evaluation.report import EvaluationReport, score_tables

    start = time.monotonic()
    interview = _asked(model, questions, settings)
    outcome = interview.outcome()
    report = EvaluationReport(model, "interview", time.monotonic() - start, outcome.scores, failures=outcome.failures)
    text = f"{interview.transcript()}\n{score_tables(outcome.scores, level=2)}\n"
    if out is None:
        typer.echo(text)
        return
    out.mkdir(parents=True, exist_ok=True)
    (out / "interview.json").write_text(report.to_json(), encoding="utf-8")
    (out / "interview.md").write_text(text, encoding="utf-8")
    typer.echo(f"{score_tables(outcome.scores, level=2)}\nwrote interview.json, interview.md to {out}")


def _asked(model: str, questions: Path | None, settings: Mapping[str, Any]) -> "Interview":
    """The model's answers to a file of questions, or to our own."""
    from model.evaluation.tasks.interview import QUESTIONS_FILE, ask, read_questions

    asked = read_questions(questions or QUESTIONS_FILE)
    with _served(model, settings) as (served, progress):
        return ask(served, asked, progress)


@contextmanager
def _served(model: str, settings: Mapping[str, Any]) -> Iterator[tuple["UrlModel", "RichProgress"]]:
    """A server, or a checkpoint that is served here with these settings (None: the default), and a progress bar."""
    from model.evaluation.progress import RichProgress
    from server.commands.common.api_client import server_url
    from server.commands.common.options import read_settings
    from server.commands.url_model import UrlModel

    given = {name: value for name, value in settings.items() if value is not None}
    key = read_settings().api_key
    url = model if model.startswith(("http://", "https://")) else ""
    if url and given:
        raise ValueError(f"{', '.join(given)}: only for a model that is loaded here, not for a running server")
    with (
        server_url(url, None if url else model, **given) as address,
        UrlModel(address, api_key=None if key is None else key.get_secret_value()) as served,
        RichProgress() as progress,
    ):
        yield served, progress


def _experts_row(model: str, data: Path, samples: int | None, settings: Mapping[str, Any], number: int) -> "ExpertsRow":
    from model.evaluation.verdicts import EXPERTS_TASKS, experts_row, main_scores

    report = _report(model, data, EXPERTS_TASKS, samples, {**settings, "experts_per_token": number})
    return experts_row(number, main_scores(report), report.seconds)


def _cost_of_precision(model: str, data: Path, samples: int | None, settings: Mapping[str, Any]) -> str:
    """A table of the perplexity of the same texts without and with quantization."""
    from model.evaluation.verdicts import LIKELIHOOD_TASKS, perplexities

    before, after = (
        _report(model, data, LIKELIHOOD_TASKS, samples, {**settings, "quantize": scheme})
        for scheme in ("none", settings["quantize"])
    )
    return perplexities(before, after, settings["quantize"])
