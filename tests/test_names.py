"""One name, one meaning: no two classes share a name, and facts that have to be written twice are the same."""

import ast
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from model.evaluation.data import TASKS as EVALUATED_TASKS
from model.text.special_tokens import LANGUAGES, TASKS
from model.text.task_prompts import LANGUAGE_NAMES

ROOT = Path(__file__).parents[1]


def classes(sources: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """The places of every public class, by its name, of sources with their place."""
    found = defaultdict(list)
    for place, source in sources:
        for node in ast.parse(source).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(place)
    return dict(found)


def shared_names(sources: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    return {name: places for name, places in classes(sources).items() if len(places) > 1}


def test_no_two_classes_share_a_name() -> None:
    paths = sorted(path for package in ("model", "server") for path in (ROOT / package).rglob("*.py"))
    sources = [(str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")) for path in paths]
    assert len(classes(sources)) > 100
    assert shared_names(sources) == {}


def test_a_shared_name_is_found() -> None:
    assert shared_names([("a.py", "class Pair: ..."), ("b.py", "class Pair: ...\nclass _Own: ...")]) == {
        "Pair": ["a.py", "b.py"]
    }


def test_facts_that_are_written_twice_agree() -> None:
    assert tuple(LANGUAGE_NAMES) == LANGUAGES
    assert sorted(EVALUATED_TASKS) == sorted(TASKS)
