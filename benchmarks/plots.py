"""Pictures of the figures: where a decode step's time goes beside the roofline, and servers side by side.

    python -m benchmarks.plots          # writes docs/performance/*.png from benchmarks/results

Needs matplotlib (the extra `train`).
"""

import json
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import record
from benchmarks.breakdown import PARTS

DIRECTORY = Path(__file__).parents[1] / "docs" / "performance"
COLOURS = {"products": "#4c72b0", "other kernels": "#55a868", "engine around it": "#c44e52"}
RATE = "streams, output tokens/s"


def stored(name: str) -> Any:
    return json.loads((record.RESULTS / f"{name}.json").read_text(encoding="utf-8"))["figures"]


def breakdown_axes(axes: Axes, title: str, figures: Any) -> None:
    """Stacked parts of a step per number of streams; a line where the roofline of the products lies."""
    steps = figures["milliseconds"]
    places = range(len(steps))
    below = [0.0] * len(steps)
    for part in PARTS:
        heights = [of[part] for of in steps.values()]
        axes.bar(places, heights, bottom=below, width=0.6, label=part, color=COLOURS[part])
        below = [a + b for a, b in zip(below, heights, strict=True)]
    for place, of in zip(places, steps.values(), strict=True):
        label = "roofline of the products" if place == 0 else None
        axes.hlines(of["roofline of the products"], place - 0.4, place + 0.4, colors="black", linewidth=2, label=label)
    axes.set_xticks(list(places), [f"{count} streams" for count in steps])
    axes.set_title(title)
    axes.set_ylabel("milliseconds a step")


def compared_axes(axes: Axes, title: str, figures: Any) -> None:
    """Output tokens a second per server and number of streams: medians, and the range over the turns."""
    servers = figures["turns"]
    counts = [what.removesuffix(f" {RATE}") for what in next(iter(servers.values()))[0] if what.endswith(RATE)]
    width = 0.8 / len(servers)
    for number, (name, turns) in enumerate(servers.items()):
        of = [[turn[f"{count} {RATE}"] for turn in turns] for count in counts]
        middle = [median(values) for values in of]
        spread = [
            [m - min(v) for m, v in zip(middle, of, strict=True)],
            [max(v) - m for m, v in zip(middle, of, strict=True)],
        ]
        places = [place + (number - (len(servers) - 1) / 2) * width for place in range(len(counts))]
        axes.bar(places, middle, width=width, yerr=spread, label=name, capsize=2)
    axes.set_xticks(range(len(counts)), [f"{count} streams" for count in counts])
    axes.set_title(title)
    axes.set_ylabel("output tokens/s")


def draw(path: Path, panels: list[tuple[Any, str, str]]) -> None:
    """A row of panels, each a function, a title and the name of a result file."""
    figure = Figure(figsize=(4.2 * len(panels), 3.4), layout="constrained")
    for number, (panel, title, name) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), number + 1)
        panel(axes, title, stored(name))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)
    print(path)


def main() -> None:
    draw(
        DIRECTORY / "breakdown.png",
        [
            (breakdown_axes, "bundled model", "breakdown-bundled"),
            (breakdown_axes, "granite shape, bf16", "breakdown-granite"),
        ],
    )
    draw(
        DIRECTORY / "compare.png",
        [
            (compared_axes, "granite shape, bf16", "compare-granite-bf16-avx512"),
            (compared_axes, "granite shape, 8 bits", "compare-granite-int8-avx512"),
            (compared_axes, "tiny-qwen3-moe, bf16", "compare-tiny-bf16-avx512"),
        ],
    )


if __name__ == "__main__":
    main()
