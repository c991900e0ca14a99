"""What Grafana reads at its start. It ignores fields and folders that it does not know: misspelt ones are found here.

The names are those of "Provision Grafana" in Grafana's documentation, version 12.
"""

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from .files import DEPLOY, yaml_document
from .promql import dashboard

PROVISIONING = DEPLOY / "grafana/provisioning"
FOLDERS = {"access-control", "alerting", "dashboards", "datasources", "plugins"}
Fields = dict[str, Any]  # the fields that there are, each with those below it; None: no more is known

DATASOURCES: Fields = {
    "apiVersion": None,
    "prune": None,
    "deleteDatasources": {"name": None, "orgId": None},
    "datasources": {
        **dict.fromkeys(("name", "type", "access", "orgId", "uid", "url", "user", "database", "basicAuth")),
        **dict.fromkeys(("basicAuthUser", "withCredentials", "isDefault", "secureJsonData", "version", "editable")),
        "jsonData": dict.fromkeys(("timeInterval", "queryTimeout", "httpMethod", "manageAlerts", "prometheusType")),
    },
}
PROVIDERS: Fields = {
    "apiVersion": None,
    "providers": {
        **dict.fromkeys(("name", "orgId", "folder", "folderUid", "type", "disableDeletion", "allowUiUpdates")),
        "updateIntervalSeconds": None,
        "options": {"path": None, "foldersFromFilesStructure": None},
    },
}
FILES = {"datasources/prometheus.yml": DATASOURCES, "dashboards/routelm.yml": PROVIDERS}


def unknown_fields(value: Any, known: Fields | None, place: str = "$") -> Iterator[str]:
    if known is None:
        return
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from unknown_fields(item, known, f"{place}[{index}]")
        return
    for name, item in value.items():
        if name not in known:
            yield f"{place}.{name}"
        yield from unknown_fields(item, known.get(name), f"{place}.{name}")


def test_every_file_is_in_a_folder_that_grafana_reads() -> None:
    files = {str(path.relative_to(PROVISIONING)) for path in PROVISIONING.rglob("*.*")}
    assert files == FILES.keys()
    assert {name.split("/")[0] for name in files} <= FOLDERS


@pytest.mark.parametrize("name", FILES)
def test_grafana_knows_every_field(name: str) -> None:
    assert list(unknown_fields(yaml_document(PROVISIONING / name), FILES[name])) == []


def test_misspelt_fields_are_found() -> None:
    document = copy.deepcopy(yaml_document(PROVISIONING / "datasources/prometheus.yml"))
    document["datasources"][0]["default"] = True
    document["datasources"][0]["jsonData"]["scrapeInterval"] = "5s"
    found = list(unknown_fields(document, DATASOURCES))
    assert sorted(found) == ["$.datasources[0].default", "$.datasources[0].jsonData.scrapeInterval"]


def test_the_dashboard_finds_the_datasource() -> None:
    """Its variable lists the data sources of a type, the default one first."""
    (source,) = yaml_document(PROVISIONING / "datasources/prometheus.yml")["datasources"]
    (variable,) = [one for one in dashboard()["templating"]["list"] if one["type"] == "datasource"]
    assert (variable["query"], variable["multi"]) == (source["type"], False)
    assert source["isDefault"] is True
    assert "current" not in variable  # a chosen one would have to be the uid


def test_rates_are_taken_over_the_interval_of_the_scrapes() -> None:
    """Grafana computes $__rate_interval from the data source's."""
    (source,) = yaml_document(PROVISIONING / "datasources/prometheus.yml")["datasources"]
    scrapes = yaml_document(DEPLOY / "prometheus/prometheus.yml")["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scrapes
