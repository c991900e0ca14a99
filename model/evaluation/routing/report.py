"""A routing report in Markdown, and the baseline that a server compares its load with."""

from collections.abc import Iterator
from pathlib import Path

from model.evaluation.routing.measures import AXES, BATCH_SIZES, RoutingStudy
from model.evaluation.routing.plots import write_plots
from model.evaluation.tables import table
from model.load_balance import entropy, idle_experts, load_shares, max_violation
from model.loading.routing_baseline import RoutingBaseline

STRONGEST = 3  # experts named for each label


def write_report(model: str, study: RoutingStudy, directory: Path) -> list[str]:
    """Write report.md, its pictures and routing_baseline.json; returns the names. ImportError without matplotlib."""
    directory.mkdir(parents=True, exist_ok=True)
    pictures = write_plots(study, directory)
    (directory / "report.md").write_text("\n".join(_lines(model, study)) + "\n", encoding="utf-8")
    baseline_of(study).save(directory)
    return ["report.md", "routing_baseline.json", *pictures]


def baseline_of(study: RoutingStudy) -> RoutingBaseline:
    """Each expert's share of the choices in its layer."""
    shares = {layer.layer: tuple(load_shares(layer.load_E)) for layer in study.layers}
    return RoutingBaseline(study.num_tokens, shares)


def strongest(study: RoutingStudy, axis: str) -> dict[str, list[tuple[int, int, float]]]:
    """For each label the experts that it uses most, compared with an even share: (layer, expert, times even)."""
    found = {}
    for number, label in enumerate(study.labels[axis]):
        scored = [
            (layer.layer, expert, float(share * layer.used_TE.shape[1]))
            for layer in study.layers
            for expert, share in enumerate(layer.shares(axis)[number])
        ]
        found[label] = sorted(scored, key=lambda entry: -entry[2])[:STRONGEST]
    return found


def _lines(model: str, study: RoutingStudy) -> Iterator[str]:
    yield f"# Routing of {model}"
    yield ""
    yield (
        f"{study.num_tokens:,} tokens of {study.num_texts:,} texts; {len(study.layers)} layers with "
        f"{study.layers[0].used_TE.shape[1]} experts. Written by `routelm routing`."
    )
    yield from ("", "## Layers", "")
    yield table(
        ["layer", "experts per token", "entropy, bits", "imbalance", "idle", *(f"I({axis}; expert)" for axis in AXES)],
        _layer_rows(study),
    )
    yield ""
    yield (
        "Entropy is that of the experts' shares of all choices, log2 of their number when even. Imbalance is MaxVio, "
        "(largest - mean) / mean. Idle experts get less than a tenth of the mean. I(x; expert) is how many bits a "
        f"single choice tells of x, of those that there are: {_label_bits(study)}."
    )
    yield from ("", "![Load of the experts by layer](load.png)")
    for axis in AXES:
        yield from ("", f"## Experts by {axis}", "")
        rows = [
            [label, ", ".join(f"layer {layer} expert {expert} ({times:.1f})" for layer, expert, times in entries)]
            for label, entries in strongest(study, axis).items()
        ]
        yield table([axis, "strongest experts (times an even share)"], rows)
        yield from ("", f"![Experts by {axis}]({axis}.png)")
    yield from ("", "## Which experts are used together", "", "![Co-activation](coactivation.png)")
    yield from ("", "## Bytes touched by a decode step", "")
    rows = [
        [str(size), f"{sum(study.distinct_experts[size]):.1f}", f"{study.touched_bytes(size) / 2**20:.2f}"]
        for size in BATCH_SIZES
    ]
    yield table(["sequences", "distinct experts, all layers", "MiB of routed experts in bfloat16"], rows)
    yield from ("", "![Bytes by batch size](bytes.png)")


def _label_bits(study: RoutingStudy) -> str:
    """The entropy of the labels of each axis, which bounds what choices can tell of them."""
    counts = {axis: study.layers[0].by_label[axis].sum(1) for axis in AXES}
    return ", ".join(f"{axis} {entropy(load_shares(counts_A)):.2f}" for axis, counts_A in counts.items())


def _layer_rows(study: RoutingStudy) -> Iterator[list[str]]:
    for layer in study.layers:
        load_E = layer.load_E
        yield [
            str(layer.layer),
            f"{load_E.sum() / study.num_tokens:.2f}",
            f"{entropy(load_shares(load_E)):.2f}",
            f"{max_violation(load_E):.2f}",
            ", ".join(map(str, idle_experts(load_E))) or "none",
            *(f"{layer.information(axis):.3f}" for axis in AXES),
        ]
