#!/bin/sh
# Builds the image without a Docker daemon and without a registry: `build-image.sh [options of buildah build]`.
#
# Needs Debian's packages buildah, debootstrap and crun, and root (a container's root is enough: nothing is mounted and no
# namespaces are made). The base is a minimal Debian with Python, from MIRROR, in place of Docker's python:slim.
#
# MIRROR   Debian mirror (default: the first of this machine's own apt sources)
# NAME     name of the image (default: routelm:0.1.0)
# ARCHIVE  also write the image there, as a file for `docker load` or `podman load`
set -eu

SUITE=bookworm
NAME=${NAME:-routelm:0.1.0}
BASE=localhost/routelm-base:$SUITE
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER="${STORAGE_DRIVER:-vfs}"

own_mirror() {
    apt-get indextargets --format '$(SITE)' "Created-By: Packages" | head -n 1
}

make_base() {
    root=$(mktemp -d)
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates "$SUITE" "$root" "${MIRROR:-$(own_mirror)}"
    rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/doc/* "$root"/usr/share/man/*
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$root" /
    buildah config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
    buildah commit --quiet --rm "$container" "$BASE"
    rm -rf "$root"
}

cd "$(dirname "$0")/../.."
buildah inspect --type image "$BASE" >/dev/null 2>&1 || make_base
buildah build --layers --build-arg BASE="$BASE" --tag "$NAME" "$@" .
if [ -n "${ARCHIVE:-}" ]; then
    buildah push --quiet "$NAME" "docker-archive:$ARCHIVE:$NAME"
fi
buildah inspect --type image --format '{{.FromImageID}}' "$NAME"
