"""Limits of cgroups, read from files as the kernel writes them."""

from pathlib import Path

import pytest

from server.engine import cgroups
from server.engine.cgroups import cpu_quotas, free_memory

STAT_V2 = "anon 90\nfile 920\ninactive_file 600\nactive_file 250\nshmem 70\n"
STAT_V1 = "cache 1\nactive_file 7\ninactive_file 7\ntotal_active_file 250\ntotal_inactive_file 600\n"


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cgroups, "CGROUPS", tmp_path)
    monkeypatch.setattr(cgroups, "MEMBERSHIP", tmp_path / "membership")
    return tmp_path


def write(directory: Path, contents: dict[str, str]) -> None:
    for name, text in contents.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)


@pytest.mark.parametrize(
    ("contents", "membership", "expected"),
    [
        ({"cpu.max": "100000 100000"}, "0::/\n", [1]),
        ({"cpu.max": "max 100000"}, "0::/\n", []),
        ({"pod/cpu.max": "max 100000", "cpu.max": "250000 100000"}, "0::/pod\n", [2.5]),  # the group around it counts
        ({"pod/cpu.max": "50000 100000"}, "0::/pod\n", [0.5]),
        ({"cpu/box/cpu.cfs_quota_us": "200000", "cpu/box/cpu.cfs_period_us": "100000"}, "3:cpu:/box\n0::/\n", [2]),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "3:cpu:/\n", []),
        ({}, "0::/\n", []),
        ({"cpu.max": "no number"}, "0::/\n", []),
    ],
)
def test_cpu_quotas(files: Path, contents: dict[str, str], membership: str, expected: list[float]) -> None:
    write(files, contents | {"membership": membership})
    assert cpu_quotas() == expected


@pytest.mark.parametrize(
    ("contents", "membership", "expected"),
    [
        ({"memory.max": "1000", "memory.current": "990", "memory.stat": "anon 990\n"}, "0::/\n", [10]),
        ({"memory.max": "1000", "memory.current": "990", "memory.stat": STAT_V2}, "0::/\n", [10 + 850]),
        ({"memory.max": "1000", "memory.current": "1010", "memory.stat": ""}, "0::/\n", [0]),
        ({"memory.max": "max", "memory.current": "990", "memory.stat": STAT_V2}, "0::/\n", []),
        (  # a service with a limit in a slice with another
            {
                "a/b/memory.max": "1000", "a/b/memory.current": "100", "a/b/memory.stat": "",
                "a/memory.max": "2000", "a/memory.current": "1500", "a/memory.stat": "",
            },
            "0::/a/b\n",
            [900, 500],
        ),
        (
            {
                "memory/box/memory.limit_in_bytes": "1000", "memory/box/memory.usage_in_bytes": "990",
                "memory/box/memory.stat": STAT_V1,
            },
            "4:memory:/box\n0::/\n",
            [10 + 850],
        ),
        ({"memory.max": "1000"}, "0::/\n", []),
        ({"memory.max": "no number", "memory.current": "990", "memory.stat": ""}, "0::/\n", []),
    ],
)  # fmt: skip
def test_free_memory(files: Path, contents: dict[str, str], membership: str, expected: list[int]) -> None:
    write(files, contents | {"membership": membership})
    assert free_memory() == expected


def test_nothing_is_limited_where_there_are_no_cgroups(files: Path) -> None:
    assert (cpu_quotas(), free_memory()) == ([], [])
