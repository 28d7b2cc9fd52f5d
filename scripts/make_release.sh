#!/bin/sh
# A wheel and its SBOM (CycloneDX), from lock files with hashes: what is not named there by digest is not installed.
# Usage: scripts/make_release.sh [FOLDER]
set -eu
out="${1:-dist}"
python="${PYTHON:-python3}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"
"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --require-hashes -r locks/release.txt
SOURCE_DATE_EPOCH="$(git log -1 --format=%ct 2>/dev/null || echo 1700000000)"
export SOURCE_DATE_EPOCH
"$work/venv/bin/python" -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir "$out" .
"$work/venv/bin/cyclonedx-py" requirements locks/factory.txt --pyproject pyproject.toml --output-reproducible \
    --of JSON -o "$out/fleetmill.cdx.json"
(cd "$out" && sha256sum -- *.whl *.cdx.json > SHA256SUMS)
cat "$out/SHA256SUMS"
