"""The pictures of a routing report."""

from pathlib import Path
from typing import Any

import numpy as np

from model.evaluation.routing.measures import AXES, BATCH_SIZES, RoutingStudy

DPI, COLOURS = 80, 128
MOST_EVENNESS = 3.0  # the end of the colours: three times an even share
FEW_LAYERS = 16  # pictures of more layers have more columns


def write_plots(study: RoutingStudy, directory: Path) -> list[str]:
    """Write the pictures; returns their names. ImportError without matplotlib."""
    from matplotlib.figure import Figure

    layers, experts = len(study.layers), max(layer.used_TE.shape[1] for layer in study.layers)
    columns, small_columns = (2, 4) if layers <= FEW_LAYERS else (5, 6)
    wide = min(2.0 + 0.16 * experts, 8.0)
    pictures: dict[str, Any] = {}
    pictures["load.png"] = figure = Figure(figsize=(wide + 2, 1.2 + 0.3 * layers), layout="constrained")
    _load(figure, study)
    for axis in AXES:
        size = (0.8 * wide * columns, (0.9 + 0.22 * len(study.labels[axis])) * -(-layers // columns))
        pictures[f"{axis}.png"] = figure = Figure(figsize=size, layout="constrained")
        _labels(figure, study, axis, columns)
    size = (10, (10 / small_columns + 0.1) * -(-layers // small_columns))
    pictures["coactivation.png"] = figure = Figure(figsize=size, layout="constrained")
    _coactivation(figure, study, small_columns)
    pictures["bytes.png"] = figure = Figure(figsize=(6, 3.2), layout="constrained")
    _bytes(figure, study)
    for name, picture in pictures.items():
        _save(picture, directory / name)
    return list(pictures)


def _save(figure: Any, path: Path) -> None:
    """With a palette: a quarter of the bytes, for reports that are kept in a repository."""
    from PIL import Image

    figure.savefig(path, dpi=DPI)
    with Image.open(path) as image:
        small = image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


def _load(figure: Any, study: RoutingStudy) -> None:
    """Layers down, experts across."""
    axes = figure.subplots()
    shares = [layer.load_E / max(layer.load_E.mean(), 1) for layer in study.layers]
    widest = max(map(len, shares))
    image = axes.imshow(
        np.array([np.pad(share, (0, widest - len(share)), constant_values=np.nan) for share in shares]),
        aspect="auto",
        vmin=0,
        vmax=MOST_EVENNESS,
    )
    axes.set_yticks(range(len(shares)), [f"layer {layer.layer}" for layer in study.layers], fontsize=7)
    axes.set_xlabel("expert")
    figure.colorbar(image, ax=axes, label="load, 1 is even")


def _labels(figure: Any, study: RoutingStudy, axis: str, columns: int) -> None:
    """For each layer: labels down, experts across."""
    names = study.labels[axis]
    grid = figure.subplots(-(-len(study.layers) // columns), columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, layer in zip(grid.flat, study.layers, strict=False):
        axes.set_axis_on()
        evenness = layer.shares(axis) * layer.used_TE.shape[1]
        image = axes.imshow(evenness, aspect="auto", vmin=0, vmax=MOST_EVENNESS)
        axes.set_title(f"layer {layer.layer}", fontsize=8)
        axes.set_yticks(range(len(names)), names, fontsize=7)
        axes.tick_params(axis="x", labelsize=7)
    figure.colorbar(image, ax=grid, label="share, 1 is even", fraction=0.03)


def _coactivation(figure: Any, study: RoutingStudy, columns: int) -> None:
    """For each layer: how often the expert across is used where the one down is."""
    grid = figure.subplots(-(-len(study.layers) // columns), columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, layer in zip(grid.flat, study.layers, strict=False):
        axes.set_axis_on()
        image = axes.imshow(layer.coactivation_EE, vmin=0, vmax=0.5)
        axes.set_title(f"layer {layer.layer}", fontsize=8)
        axes.tick_params(labelsize=6)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.yaxis.get_major_locator().set_params(integer=True)
    figure.colorbar(image, ax=grid, label="share of the row's tokens", fraction=0.02)


def _bytes(figure: Any, study: RoutingStudy) -> None:
    axes = figure.subplots()
    axes.plot(BATCH_SIZES, [study.touched_bytes(size) / 2**20 for size in BATCH_SIZES], marker="o")
    axes.set_xscale("log", base=2)
    axes.set_xticks(BATCH_SIZES, [str(size) for size in BATCH_SIZES])
    axes.set_xlabel("sequences in a decode step")
    axes.set_ylabel("MiB of routed experts, bfloat16")
    axes.set_ylim(0)
    axes.grid(alpha=0.3)
