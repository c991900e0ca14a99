"""The Dockerfile as the official parser reads it, and the build context that .dockerignore leaves."""

import re
from dataclasses import dataclass

import pytest

from .files import ROOT

DOCKERFILE = ROOT / "Dockerfile"
IGNORE_FILE = ROOT / ".dockerignore"


@dataclass(frozen=True, slots=True)
class Instruction:
    name: str
    arguments: tuple[str, ...]
    flags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stage:
    name: str
    instructions: tuple[Instruction, ...]

    def all(self, name: str) -> list[Instruction]:
        return [instruction for instruction in self.instructions if instruction.name == name]

    def only(self, name: str) -> Instruction:
        (instruction,) = self.all(name)
        return instruction


def stages(text: str) -> dict[str, Stage]:
    """The stages by name, in order; what stands before the first FROM belongs to none."""
    dockerfile = pytest.importorskip("dockerfile", reason="dockerfile has wheels for x86-64 only")
    found: dict[str, list[Instruction]] = {}
    current: list[Instruction] = []
    for command in dockerfile.parse_string(text):
        if command.cmd.upper() == "FROM":
            current = found.setdefault(command.value[-1], [])
        current.append(Instruction(command.cmd.upper(), tuple(command.value), tuple(command.flags)))
    return {name: Stage(name, tuple(instructions)) for name, instructions in found.items()}


def _pattern(line: str) -> re.Pattern[str]:
    """One .dockerignore line: `**` is any number of folders, `*` stays inside a name, a folder covers its content."""
    expression = re.escape(line.strip("/")).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
    return re.compile(f"{expression}(?:/.*)?")


def is_ignored(path: str, ignore_text: str) -> bool:
    """Whether Docker leaves `path` (relative to the context) out: the last line that matches decides."""
    ignored = False
    for raw in ignore_text.splitlines():
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        keep = line.startswith("!")
        if _pattern(line.removeprefix("!")).fullmatch(path):
            ignored = not keep
    return ignored
