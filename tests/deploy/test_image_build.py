"""The image without Docker: the builder's steps in a clean folder, then the server as the final stage starts it."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from model.kernels.build import find_compiler

from .files import DEPLOY
from .image import DOCKERFILE, copy_from_context, stages
from .servers import answers, free_port, get, running

pytestmark = pytest.mark.slow

IMAGE_USER = 10001
IMAGE_PREFIX = "/opt/routelm"


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Like pytest's own, but the image's user may look into it."""
    path = Path(tempfile.mkdtemp(prefix="routelm-image-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def venv(folder: Path) -> Path:
    """The virtual environment that the builder stage makes, from what .dockerignore lets in and nothing else."""
    if find_compiler() is None:
        pytest.skip("no C++ compiler, which the image has while it is built")
    sources, environment = folder / "src", folder / "venv"
    builder = stages(DOCKERFILE.read_text())["builder"]
    defaults = dict(argument.arguments[0].split("=", 1) for argument in builder.all("ARG"))
    # The Python of the tests stands for the one of the base image.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    settings = {**defaults, **os.environ, "PATH": path, "VENV": str(environment)}
    sources.mkdir()
    for instruction in builder.instructions:
        if instruction.name == "COPY":
            copy_from_context(instruction, sources)
        elif instruction.name == "RUN" and "apt-get" not in instruction.arguments[0]:
            subprocess.run(["sh", "-euc", instruction.arguments[0]], cwd=sources, env=settings, check=True)
    return environment


@pytest.fixture
def image_environment(venv: Path) -> dict[str, str]:
    """The ENV of the final stage, at the place where the virtual environment lies here, and a free port."""
    instructions = stages(DOCKERFILE.read_text())["runtime"].all("ENV")
    words = [word for instruction in instructions for word in instruction.arguments]
    environment = dict(zip(words[::2], words[1::2], strict=True))
    path = environment["PATH"].replace(IMAGE_PREFIX, str(venv)).replace("$PATH", "/usr/bin:/bin")
    return {**environment, "PATH": path, "ROUTELM_PORT": str(free_port())}


def image_user(venv: Path) -> int | None:
    """The user of the image if we may become that one (only root may), and if that one may read this Python."""
    if os.geteuid() != 0:
        return None
    try:
        subprocess.run([str(venv / "bin/python"), "-c", ""], user=IMAGE_USER, group=IMAGE_USER, check=True)
    except PermissionError:
        return None
    return IMAGE_USER


def test_kernels_lie_beside_the_installed_package(venv: Path, folder: Path) -> None:
    libraries = [path.relative_to(venv) for path in venv.rglob("cpu_*.so")]
    assert libraries
    assert all(path.parts[-5:-1] == ("site-packages", "model", "kernels", "cpu") for path in libraries)
    assert list((folder / "src").rglob("*.so")) == []


def test_the_bundled_model_is_inside(venv: Path) -> None:
    assert len(list(venv.glob("lib/python*/site-packages/model/bundled/*.safetensors"))) == 1


def test_no_cuda_comes_along(venv: Path) -> None:
    assert [path.name for path in venv.glob("lib/python*/site-packages/nvidia*")] == []


def test_the_server_starts_lives_and_drains(venv: Path, folder: Path, image_environment: dict[str, str]) -> None:
    runtime = stages(DOCKERFILE.read_text())["runtime"]
    command = [*runtime.only("ENTRYPOINT").arguments, *runtime.only("CMD").arguments]
    work = folder / "work"
    work.mkdir()
    url = f"http://127.0.0.1:{image_environment['ROUTELM_PORT']}"

    def healthcheck() -> int:
        python = [str(venv / "bin/python"), str(DEPLOY / "docker/healthcheck.py")]
        return subprocess.run(python, env=image_environment, capture_output=True, check=False).returncode

    assert healthcheck() != 0
    program = [str(venv / "bin" / command[0]), *command[1:]]
    with running(program, work / "log", f"{url}/health/ready", image_environment, image_user(venv)) as process:
        assert healthcheck() == 0
        assert "vllm:num_requests_running" in get(f"{url}/metrics")
    assert process.returncode == 0, (work / "log").read_text()
    assert not answers(f"{url}/health/live")
