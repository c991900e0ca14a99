#!/bin/sh
# Builds the image without a Docker daemon and without a registry: `podman-build.sh [options of podman build]`.
#
# The base is a minimal Debian with its own Python. pip runs outside the build, with this machine's index and certificates,
# and the build installs the wheels that it downloaded. Needs root, Python with pip, and Debian's packages podman and
# mmdebstrap.
#
# IMAGE            name of the image (default: routelm:0.1.0)
# PYTHON           the Python whose pip downloads (default: python3)
# SBOM             file for the software bill of materials (default: routelm.cdx.json)
# TORCH_INDEX_URL  optional package index with CPU builds of torch
set -eu

IMAGE=${IMAGE:-routelm:0.1.0} PYTHON=${PYTHON:-python3} SBOM=$(realpath "${SBOM:-routelm.cdx.json}")
cd "$(dirname "$0")/../.."
default() { sed -n "s/^ARG $1=//p" Dockerfile; }
SUITE=bookworm # the Debian of the Dockerfile's BASE; its Python is PYTHON_VERSION
BASE=localhost/debian-python:$SUITE
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

make_base() {
    mmdebstrap --variant=apt --include=python3,python3-venv,ca-certificates \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt=force-unsafe-io "$SUITE" "$scratch/base.tar"
    podman import --quiet --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
        "$scratch/base.tar" "$BASE"
    rm "$scratch/base.tar"
}

download_wheels() {
    mkdir "$scratch/wheels"
    set -- download --quiet --only-binary=:all: --python-version "$(default PYTHON_VERSION)" --dest "$scratch/wheels"
    # With its dependencies: those of a CUDA build are not in the lock file.
    "$PYTHON" -m pip "$@" ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} "torch==$(default TORCH_VERSION)"
    "$PYTHON" -m pip "$@" --no-deps --require-hashes --requirement deploy/docker/requirements.lock
    printf '[global]\nno-index = true\nfind-links = /wheels\n' >"$scratch/pip.conf"
}

podman image exists "$BASE" || make_base
download_wheels
# chroot: steps of the build need no namespaces, which a container may not make. docker: the format that keeps HEALTHCHECK.
podman build --isolation chroot --format docker --layers=false --build-arg BASE="$BASE" --tag "$IMAGE" \
    --volume "$scratch/wheels:/wheels:ro" --volume "$scratch/pip.conf:/etc/pip.conf:ro" "$@" .
podman run --rm --interactive --no-healthcheck --network none --entrypoint python "$IMAGE" - <deploy/docker/sbom.py >"$SBOM"
echo "$IMAGE: $(podman image inspect --format '{{.Size}}' "$IMAGE") bytes; its packages are listed in $SBOM"
