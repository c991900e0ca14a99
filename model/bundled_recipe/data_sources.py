"""The texts that the bundled model was trained on: where they come from, under which licence, and whom to credit."""

import json
from collections.abc import Iterable
from pathlib import Path

from model.evaluation.card import DataSource, Provenance

FILE = Path(__file__).with_name("data_sources.json")


def provenance(names: Iterable[str]) -> Provenance:
    """What is known of the named sources. ValueError for a source that the file does not list."""
    known = json.loads(FILE.read_text(encoding="utf-8"))
    wanted = set(names)
    unknown = sorted(wanted - {source["name"] for source in known["sources"]})
    if unknown:
        raise ValueError(f"licence of {', '.join(unknown)} is not known: add it to {FILE.name} before training on it")
    sources = tuple(DataSource(**source) for source in known["sources"] if source["name"] in wanted)
    return Provenance(sources, known["changes"], known["licence_texts"])
