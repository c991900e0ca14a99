"""The dashboard against Grafana's own model of one, and against what a person who looks at it needs."""

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from .promql import dashboard, dashboard_expressions, panels

SUBJECTS = ["Overview", "Traffic", "Latency", "Queue and engine", "Cache", "Routing", "Errors", "Batches"]
COLUMNS = 24

Document = dict[str, Any]


def unknown_to_grafana(document: Document) -> list[str]:
    """What is lost or changed on the way through Grafana's typed model: misspelt fields, wrong values."""
    plugins.register_default_plugins()
    understood = json.loads(JSONEncoder().encode(Dashboard.from_json(document)))
    return list(differences(document, understood, "$"))


def differences(ours: Any, understood: Any, place: str) -> Iterator[str]:
    if isinstance(ours, dict) and isinstance(understood, dict):
        for key, value in ours.items():
            yield from differences(value, understood.get(key, f"no {key}"), f"{place}.{key}")
    elif isinstance(ours, list) and isinstance(understood, list) and len(ours) == len(understood):
        for index, (one, other) in enumerate(zip(ours, understood, strict=True)):
            yield from differences(one, other, f"{place}[{index}]")
    elif ours != understood:
        yield place


def test_grafana_understands_every_field() -> None:
    assert unknown_to_grafana(dashboard()) == []


def misspell_unit(document: Document) -> None:
    document["panels"][1]["fieldConfig"]["defaults"]["units"] = "s"


def misspell_option(document: Document) -> None:
    document["panels"][1]["options"]["colourMode"] = "value"


def misspell_query(document: Document) -> None:
    document["panels"][1]["targets"][0]["expression"] = "up"


def misspell_variable(document: Document) -> None:
    document["templating"]["list"][1]["multiple"] = True


@pytest.mark.parametrize("mistake", [misspell_unit, misspell_option, misspell_query, misspell_variable])
def test_grafana_does_not_understand_mistakes(mistake: Callable[[Document], None]) -> None:
    document = copy.deepcopy(dashboard())
    mistake(document)
    assert len(unknown_to_grafana(document)) == 1


def test_one_row_per_subject() -> None:
    assert [panel["title"] for panel in dashboard()["panels"] if panel["type"] == "row"] == SUBJECTS


def test_panels_fill_the_page_without_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells, panel["title"]
        taken |= cells
    lowest = max(y for _, y in taken)
    assert taken == {(x, y) for x in range(COLUMNS) for y in range(lowest + 1)}


def test_ids_are_unique() -> None:
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_every_panel_explains_itself(panel: Document) -> None:
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert [target["refId"] for target in panel["targets"]] == ["A", "B", "C", "D", "E"][: len(panel["targets"])]


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_every_panel_asks_the_chosen_prometheus_for_the_chosen_servers(panel: Document) -> None:
    assert all(target["datasource"] == panel["datasource"] for target in panel["targets"])
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert all('instance=~"$instance"' in target["expr"] for target in panel["targets"])


def test_variables() -> None:
    names = [variable["name"] for variable in dashboard()["templating"]["list"]]
    assert names == ["datasource", "model_name", "instance", "layer"]
    used = " ".join(expression.text for expression in dashboard_expressions())
    assert all(f"${name}" in used for name in names[1:])
