"""A study: which variants, for how many tokens, how often; its directory, and the runs in it."""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.routing_study.variants import SIZES, VARIANTS, Size, variant_named
from model.files import replace_text

STUDY_NAME = "study.json"
RESULT_NAME = "result.json"
_FACTORS = {"": 1, "k": 1_000, "M": 1_000_000}


@dataclass(frozen=True, slots=True)
class SubRun:
    """One variant with one seed."""

    variant: str
    seed: int

    def directory(self, study_dir: Path) -> Path:
        return study_dir / f"{self.variant}-seed{self.seed}"


@dataclass(frozen=True, slots=True)
class Study:
    """Every variant is trained once per seed 1..`seeds` on the same `tokens`, in the same order."""

    tokens: int
    seeds: int = 2
    size: str = "XS"
    variants: tuple[str, ...] = tuple(VARIANTS)
    rows_per_source: int = 64  # of validation text, for the likelihoods
    rows_per_label_set: int = 50  # of labelled texts, each scored with every label
    rows_per_probe: int = 12  # of each source, to see where the router sends them

    def __post_init__(self) -> None:
        """ValueError for an unknown variant or size and for numbers below 1."""
        if self.size not in SIZES:
            raise ValueError(f"there is no size {self.size!r}; there are: {', '.join(SIZES)}")
        for name in self.variants:
            variant_named(name)
        if self.tokens < 1 or self.seeds < 1 or not self.variants:
            raise ValueError(f"a study needs tokens, seeds and variants, not {self}")

    @property
    def shape(self) -> Size:
        return SIZES[self.size]

    def sub_runs(self) -> Iterator[SubRun]:
        """Seed by seed, so that a study that is stopped half way has every variant once."""
        for seed in range(1, self.seeds + 1):
            for variant in self.variants:
                yield SubRun(variant, seed)


def parse_tokens(text: str) -> int:
    """A number such as 500k, 2M or 1.5M. ValueError where it is something else."""
    found = re.fullmatch(r"([0-9_]*\.?[0-9]+)([kM]?)", text)
    if found is None:
        raise ValueError(f"{text!r} is no number of tokens: write 500k, 2M or 2000000")
    return round(float(found[1]) * _FACTORS[found[2]])


def open_study(study: Study, directory: Path) -> None:
    """Begin the study in `directory`, or go on with it, perhaps with more seeds or other variants.

    ValueError where a study of another size or length stands there: their runs could not be compared.
    """
    path = directory / STUDY_NAME
    if path.exists():
        earlier = read_study(directory)
        if (earlier.tokens, earlier.size) != (study.tokens, study.size):
            raise ValueError(
                f"{directory} holds a study of {earlier.tokens:,} tokens at size {earlier.size}, not of "
                f"{study.tokens:,} at size {study.size}: use another directory"
            )
    directory.mkdir(parents=True, exist_ok=True)
    replace_text(path, json.dumps(asdict(study), indent=1) + "\n")


def read_study(directory: Path) -> Study:
    """The study of a directory. ValueError where there is none."""
    path = directory / STUDY_NAME
    if not path.exists():
        raise ValueError(f"{directory} holds no study: make one with `routelm compare run {directory}`")
    fields = json.loads(path.read_text(encoding="utf-8"))
    return Study(**{**fields, "variants": tuple(fields["variants"])})
