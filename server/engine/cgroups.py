"""What the cgroups of this process, and those around them, allow: Linux's limits on containers and services.

Versions 1 and 2. A limit that cannot be read counts as none.
"""

from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def cpu_quotas() -> list[float]:
    """The quotas of processor time, in processors."""
    return [quota for group in _groups("cpu") for quota in _quota(group)]


def free_memory() -> list[int]:
    """Bytes that are left of each limit on memory."""
    return [free for group in _groups("memory") for free in _free(group)]


def _groups(controller: str) -> Iterator[Path]:
    """The directories of this process's cgroup and of all around it."""
    try:
        memberships = [line.split(":", 2) for line in MEMBERSHIP.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return
    for _, controllers, path in memberships:
        if controllers and controller not in controllers.split(","):
            continue
        root = CGROUPS / controllers if controllers else CGROUPS
        group = root / path.lstrip("/")
        yield from (place for place in (group, *group.parents) if place.is_relative_to(root))


def _quota(group: Path) -> list[float]:
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period"))
        return [] if quota == "max" or int(quota) <= 0 else [int(quota) / int(period)]
    except (OSError, ValueError):
        return []


def _free(group: Path) -> list[int]:
    """Pages of files that were read, such as weights, count as free: they are dropped where memory is needed."""
    is_v2 = (group / "memory.max").exists()
    limit, used, total = (
        ("memory.max", "memory.current", "") if is_v2 else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
    )
    try:
        allowed = (group / limit).read_text(encoding="ascii").strip()
        if allowed == "max":
            return []
        stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        pages = sum(int(stat.get(f"{total}{kind}_file", 0)) for kind in ("active", "inactive"))
        return [max(int(allowed) - int((group / used).read_text(encoding="ascii")) + pages, 0)]
    except (OSError, ValueError):
        return []
