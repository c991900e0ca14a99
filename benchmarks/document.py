"""Puts the figures of benchmarks/results into docs/performance.md, where the document asks for them.

    python -m benchmarks.document          # writes; with --check only says whether the document is up to date

A place is a pair of lines, `<!-- figures: NAME -->` and `<!-- end -->`; NAME.json is the result file. What the table
looks like follows from the script that wrote the file.
"""

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import breakdown, fairness, grammar, overhead, overload, record, shared_cores, token_kernels
from benchmarks.compare import digits
from model.evaluation.tables import table

DOCUMENT = Path(__file__).parents[1] / "docs" / "performance.md"
PLACE = re.compile(r"(<!-- figures: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
COMPARED = ("prompt of", "output tokens/s", "memory", "ready")
Figures = Any  # what a script stored under "figures"


def filled(document: str, results: Path = record.RESULTS) -> str:
    """The document with every place filled in. FileNotFoundError for a place without its file."""

    def fill(place: re.Match[str]) -> str:
        return f"{place[1]}\n{_block(results / (place['name'] + '.json'))}\n\n{place[3]}"

    return PLACE.sub(fill, document)


def _block(path: Path) -> str:
    """A table, and when and where it was measured."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    known = stored["circumstances"]
    script = re.split(r"[ .]", known["command"])[3]  # python -m benchmarks.SCRIPT ...
    where = f"{known['processor']}, {known['cores']} cores, {known['date']}, commit {known['commit']}"
    source = f"[{path.name}](../benchmarks/results/{path.name}): {where}."
    return f"{TABLES[script](stored['figures'])}\n\n{source}"


def compared(figures: Figures) -> str:
    """A column per server and one per ratio; throughput, memory and start alone, the rest is in the file."""
    servers, ratios = figures["medians"], figures["ratios"]
    first = next(iter(servers))
    rows = [what for what in servers[first] if any(part in what for part in COMPARED)]
    heads = ["", *servers, *(f"{first} / {other}" for other in ratios)]
    lines = [
        [what, *(digits(of[what]) for of in servers.values()), *(_spread(of[what]) for of in ratios.values())]
        for what in rows
    ]
    return table(heads, lines)


def startup(figures: Figures) -> str:
    rows = [[name, *(f"{found['median'][key]:.2f}" for key in ("ready_seconds", "first_token_seconds"))]
            for name, found in figures.items()]  # fmt: skip
    return table(["model, precision", "seconds until ready", "until the first token"], rows)


def stall(figures: Figures) -> str:
    found = figures["median"]
    rows = [
        [name, *(f"{found['itl_ms'][key][p]:.1f}" for p in ("p50", "p99", "max"))]
        for name, key in (("before it comes", "before"), ("while it is read", "during"))
    ]
    rows.append(["ratio", *(f"{found['ratio'][p]:.2f}" for p in ("p50", "p99", "max"))])
    return table(["milliseconds between tokens", "p50", "p99", "longest"], rows)


def steadiness(figures: Figures) -> str:
    rows = [
        ["growth of memory in the second half, MB a minute", f"{figures['memory_slope_mb_per_minute']:.2f}"],
        ["throughput of the second half over the first's", f"{figures['throughput_second_half_over_first']:.2f}"],
        ["failed requests", str(figures["failed_requests"])],
    ]
    return table(["", ""], rows)


def parts_of_a_step(figures: Figures) -> str:
    machine = ", ".join(f"{value:g} {name}" for name, value in figures["machine"].items())
    return f"{breakdown.rows_of(figures['milliseconds'])}\n\nMilliseconds a step, medians; this machine: {machine}."


def adaptive(figures: Figures) -> str:
    """What the step of load does to both servers, and the quality of the numbers of experts where it is known."""
    return "\n\n".join(filter(None, (_step_of_load(figures), _quality(figures["quality"]))))


def _step_of_load(figures: Figures) -> str:
    runs, same = figures["runs"], figures["same_bits"]
    seconds = {
        "wait in the queue in the step, p95, s": [run["waits"]["step"] for run in runs.values()],
        "time to the first token in the step, p95, s": [run["ttft"]["step"] for run in runs.values()],
        "time to the first token after the step, p95, s": [run["ttft"]["quiet again"] for run in runs.values()],
    }
    rows = [[name, *(f"{value:.2f}" for value in values)] for name, values in seconds.items()]
    rows.append(["generations by experts per token", *map(_by_experts, runs.values())])
    rows += [[f"same bits as fixed, {when} the step", "", _yes_or_no(same[when])] for when in ("before", "after")]
    return table(["", *runs], rows)


def _quality(rows: Figures) -> str:
    if not rows:
        return ""
    heads = ["experts per token", *rows[0]["scores"]]
    return table(heads, [[str(row["experts"]), *(f"{score:.2f}" for score in row["scores"].values())] for row in rows])


def _by_experts(run: Figures) -> str:
    return ", ".join(f"{k}: {count:,}" for k, count in sorted(run["generations"].items())) or "not counted"


def _yes_or_no(is_so: bool) -> str:
    return "yes" if is_so else "no"


def training(figures: Figures) -> str:
    return table(["", ""], [[name, f"{value:,}"] for name, value in figures.items()])


TABLES: dict[str, Callable[[Figures], str]] = {
    "adaptive": adaptive,
    "breakdown": parts_of_a_step,
    "compare": compared,
    "fairness": fairness.rows_of,
    "grammar": grammar.rows_of,
    "overhead": overhead.rows_of,
    "overload": overload.rows_of,
    "shared_cores": shared_cores.rows_of,
    "startup": startup,
    "stall": stall,
    "steadiness": steadiness,
    "token_kernels": lambda figures: token_kernels.rows_of(figures["tokens"]),
    "training": training,
}


def _spread(values: list[float]) -> str:
    return f"{median(values):.2f}" + (f" ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if it is not up to date")
    check = parser.parse_args().check
    before = DOCUMENT.read_text(encoding="utf-8")
    after = filled(before)
    if check and after != before:
        raise SystemExit(f"{DOCUMENT.name} is older than its figures: python -m benchmarks.document")
    DOCUMENT.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main()
