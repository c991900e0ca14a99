"""What every result file says beside its figures: machine, versions, commit, command. Also medians."""

import math
import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from model.files import compact_json
from model.kernels.library import load_library, source_digest

RESULTS = Path(__file__).with_name("results")
ABSOLUTE_PATH = re.compile(r"(?<![\w.$/:}])/(?:[^\s/'\"]+/)*([^\s/'\"]+)/?")


def circumstances() -> dict[str, Any]:
    """Where, when and of what a measurement was taken."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": without_folders(" ".join(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]])),
        "commit": _git("rev-parse", "--short", "HEAD") + ("-dirty" if _git("status", "--porcelain") else ""),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "kernels": _kernels(),
    }


def without_folders(command: str) -> str:
    """The command with the last name of each absolute path alone: the folders of this machine tell a reader nothing."""
    return ABSOLUTE_PATH.sub(r"\1", command)


def write(name: str, figures: Any) -> Path:
    """Store figures as benchmarks/results/<name>.json."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(compact_json({"circumstances": circumstances(), "figures": figures}), encoding="utf-8")
    return path


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]


def _kernels() -> list[str]:
    """The compiled libraries in use, and which version of their sources they were built of."""
    libraries = [load_library(source) for source in ("cpu", "matmul")]
    return [f"{Path(library._name).name} of {source_digest()[:12]}" for library in libraries if library is not None]


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()
