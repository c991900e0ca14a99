# The RouteLM server with its bundled model. CPU by default; `--build-arg DEVICE=cuda` for NVIDIA GPUs.
# The builder's work is in deploy/docker/build.sh.
ARG PYTHON_VERSION=3.11
# A digest (`--build-arg BASE=python@sha256:...`) makes the base the same in every build.
ARG BASE=python:${PYTHON_VERSION}-slim-bookworm

FROM ${BASE} AS builder
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
ENV VENV=/opt/routelm PIP_CACHE_DIR=/var/cache/pip
# cpu or cuda. An index that offers CPU builds of torch keeps gigabytes of CUDA libraries out of the image.
ARG DEVICE=cpu
ARG TORCH_VERSION=2.13.0
ARG TORCH_INDEX_URL=
COPY deploy/docker/build.sh build.sh
# torch comes before the sources: a change of ours does not download it again.
RUN --mount=type=cache,target=/var/cache/pip sh build.sh torch
COPY deploy/docker/requirements.lock requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY model model
COPY server server
RUN --mount=type=cache,target=/var/cache/pip sh build.sh server

FROM ${BASE} AS runtime
COPY --from=builder /opt/routelm /opt/routelm
COPY deploy/docker/healthcheck.py /opt/routelm/healthcheck.py
# HOME is the only place besides /tmp that a library may want to write to; the root file system can be read-only.
ENV PATH=/opt/routelm/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ROUTELM_HOST=0.0.0.0 \
    ROUTELM_PORT=8000
# Fails the build, not the first start, when this stage lacks a library that the virtual environment needs.
RUN ["python", "-c", "import server.startup.backend, llguidance, model.kernels.library as kernels; assert kernels.load_library('cpu')"]
# The place of batches, if they are turned on: a new volume that is mounted here gets its owner.
RUN ["install", "--directory", "--owner=10001", "--group=10001", "/batches"]
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "/opt/routelm/healthcheck.py"]
ENTRYPOINT ["routelm"]
CMD ["serve"]
