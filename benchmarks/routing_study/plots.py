"""The pictures of a study: quality against speed, and which experts each task uses."""

from pathlib import Path
from typing import Any

from benchmarks.routing_study.result import LayerMeasures, RunResult
from benchmarks.routing_study.table import Figure, bits_per_byte, read_runs
from benchmarks.routing_study.variants import VARIANTS

SCATTER_NAME, EXPERTS_NAME = "quality-speed.png", "experts.png"


def write_plots(directory: Path) -> list[Path]:
    """Write the pictures of a study beside its runs; returns them: none without matplotlib."""
    try:
        from matplotlib.figure import Figure as Canvas
    except ImportError:
        return []
    runs = read_runs(directory)
    scatter = Canvas(figsize=(8, 5.5), layout="constrained")
    _quality_against_speed(scatter, runs)
    pictures = {SCATTER_NAME: scatter}
    routed = {name: of_variant[0].layers for name, of_variant in runs.items() if of_variant[0].layers}
    if routed:
        layers = max(map(len, routed.values()))
        experts = Canvas(figsize=(2.6 * layers + 1.5, 1.5 * len(routed) + 0.6), layout="constrained")
        _experts_of_tasks(experts, routed, layers)
        pictures[EXPERTS_NAME] = experts
    for name, picture in pictures.items():
        picture.savefig(directory / name, dpi=110)
    return [directory / name for name in pictures]


def pareto_front(points: dict[str, tuple[float, float]]) -> list[str]:
    """Names of the points (speed, bits) that no other beats in both: faster ones have more bits. Fastest first."""
    front: list[str] = []
    for name in sorted(points, key=lambda name: (-points[name][0], points[name][1])):
        if not front or points[name][1] < points[front[-1]][1]:
            front.append(name)
    return front


def _quality_against_speed(figure: Any, runs: dict[str, list[RunResult]]) -> None:
    axes = figure.subplots()
    points = {}
    for name, of_variant in runs.items():
        bits = Figure.of([bits_per_byte(run) for run in of_variant])
        speed = Figure.of([run.serving_tokens_per_second for run in of_variant])
        points[name] = (speed.mean, bits.mean)
        axes.errorbar(speed.mean, bits.mean, bits.half_range, speed.half_range, fmt="o", capsize=2)
        axes.annotate(VARIANTS[name].title, points[name], textcoords="offset points", xytext=(6, 4), fontsize=8)
    front = pareto_front(points)
    axes.plot(*zip(*(points[name] for name in front), strict=True), color="grey", linewidth=1, zorder=0)
    axes.set_xlabel("decoding, tokens/s of 8 rows")
    axes.set_ylabel("bits per byte, mean over tasks (less is better)")
    axes.set_title("Quality against speed; the line is the Pareto front", fontsize=10)
    axes.grid(alpha=0.3)
    axes.margins(0.15)  # room for the names


def _experts_of_tasks(figure: Any, routed: dict[str, tuple[LayerMeasures, ...]], layers: int) -> None:
    """A heat map per variant and layer: tasks down, experts across; of the first seed, for experts have no identity."""
    grid = figure.subplots(len(routed), layers, squeeze=False)
    for row, (name, of_layers) in zip(grid, routed.items(), strict=True):
        for number, (axes, layer) in enumerate(zip(row, of_layers, strict=True)):
            evenness = [[share * layer.experts for share in shares] for shares in layer.task_shares.values()]
            image = axes.imshow(evenness, aspect="auto", cmap="viridis", vmin=0, vmax=3)
            axes.set_xticks([])
            axes.set_yticks(range(len(evenness)), list(layer.task_shares) if number == 0 else [], fontsize=7)
            axes.set_title(f"{VARIANTS[name].title}, layer {number}", fontsize=8)
    figure.colorbar(image, ax=grid, label="use, 1 is even", fraction=0.02)
