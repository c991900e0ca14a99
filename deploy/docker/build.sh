#!/bin/sh
# The image's builder stage: `build.sh torch`, then `build.sh server`, in the folder that holds the sources and
# requirements.lock, which has versions and hashes of all other packages (`make lock` renews it).
#
# VENV             folder of the virtual environment to make (the image: /opt/routelm)
# DEVICE           cpu or cuda
# TORCH_VERSION    the version of torch that is installed first; it satisfies the range in pyproject.toml
# TORCH_INDEX_URL  optional package index with builds of torch for DEVICE
set -eu

complain() {
    echo "build.sh: $1" >&2
}

install_torch() {
    python3 -m venv "$VENV"
    "$VENV/bin/pip" install ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} "torch==$TORCH_VERSION"
    # -W ignore: torch warns when numpy is missing; it is installed later, with the server.
    cuda=$("$VENV/bin/python" -W ignore -c "import torch; print(torch.version.cuda or '')")
    # Headers, tests and tools for developers of torch: an eighth of the image.
    (cd "$VENV"/lib/python*/site-packages/torch && rm -rf include test bin/*[Tt]est* bin/protoc*)
    case "$DEVICE:$cuda" in
        cpu:) ;;
        cpu:*) complain "this torch brings CUDA $cuda along: TORCH_INDEX_URL can name an index of CPU builds" ;;
        cuda:) complain "DEVICE=cuda, but the index offered a torch without CUDA: set TORCH_INDEX_URL"; exit 1 ;;
    esac
}

install_server() {
    # Exactly the packages of the lock file, by hash; hatchling builds ours and is one of them.
    "$VENV/bin/pip" install --no-deps --require-hashes --requirement requirements.lock
    "$VENV/bin/pip" install --no-deps --no-build-isolation .
    "$VENV/bin/pip" check
    # -P: build beside the installed package, not beside the sources in this folder.
    "$VENV/bin/python" -P -m model.kernels.build
    # Without a compiler that command only prints a warning; fail instead of building a slow image.
    "$VENV/bin/python" -P -c "
from model.kernels.build import libraries
missing = [str(path) for path in libraries() if not path.exists()]
raise SystemExit(f'build.sh: kernels were not built: {missing}' if missing else 0)"
    "$VENV/bin/routelm" version
}

case "${DEVICE:=cpu}" in
    cpu | cuda) ;;
    *) complain "DEVICE is '$DEVICE'; it must be cpu or cuda"; exit 2 ;;
esac
case "${1:-}" in
    torch) install_torch ;;
    server) install_server ;;
    *) complain "usage: build.sh torch|server (not '${1:-}')"; exit 2 ;;
esac
