#!/bin/sh
# Make the virtual environment $1 with a pip in it. Debian's own Python comes without the part that puts pip in;
# then pip is run once from its sources, which git fetches.
set -eu
venv=$1
python=${PYTHON:-python3}
pip_tag=${PIP_TAG:-26.3}
pip_source=${PIP_SOURCE:-https://github.com/pypa/pip}

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "fleetmill: $python is missing or older than Python 3.11. Try: make PYTHON=python3.12 ..." >&2
    exit 2
fi
if "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    "$python" -m venv "$venv"
    exit 0
fi
if ! "$python" -m venv --without-pip "$venv" 2>/dev/null; then
    echo "fleetmill: $python cannot make a virtual environment. On Debian: apt install python3-venv" >&2
    exit 2
fi
echo "This Python comes without pip: fetching pip $pip_tag with git."
source=$(mktemp -d)
trap 'rm -rf "$source"' EXIT
if ! git clone --quiet --depth 1 --branch "$pip_tag" "$pip_source" "$source/pip" 2>/dev/null; then
    rm -rf "$venv"
    echo "fleetmill: $pip_source did not answer. On Debian: apt install python3-venv, then try again" >&2
    exit 4
fi
PYTHONPATH="$source/pip/src" "$venv/bin/python" -m pip install --quiet "pip==$pip_tag"
