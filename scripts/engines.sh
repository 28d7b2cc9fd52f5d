#!/bin/sh
# Put llama.cpp's own server at $1/llama-server (default build/engines): the one on the PATH, else built here from the
# source that the package llama-cpp-python carries. Made once, then found again; it took 44 minutes of one crowded core.
set -eu
folder=${1:-build/engines}
python=${PYTHON:-.venv/bin/python}
version=${LLAMA_CPP_PYTHON:-0.3.36}
jobs=${JOBS:-1}

mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
if [ -x "$folder/llama-server" ]; then
    echo "$folder/llama-server is here already"
    exit 0
fi
if found=$(command -v llama-server); then
    ln -s "$found" "$folder/llama-server"
    echo "$folder/llama-server is the one on the PATH: $found"
    exit 0
fi
if ! command -v c++ >/dev/null; then
    echo "engines: there is no C++ compiler. On Debian: apt install g++" >&2
    exit 2
fi
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
if ! command -v cmake >/dev/null || ! command -v ninja >/dev/null; then
    "$python" -m venv --without-pip "$tools/venv"
    "$python" -m pip --python "$tools/venv/bin/python" install --quiet cmake ninja
    PATH="$tools/venv/bin:$PATH"
fi
source=$folder/llama_cpp_python-$version/vendor/llama.cpp
if [ ! -d "$source" ]; then
    # --no-build-isolation would want its build system here; --no-deps: the source is all that is wanted
    "$python" -m pip download --quiet --no-deps --no-binary llama-cpp-python -d "$tools" "llama-cpp-python==$version"
    tar -xzf "$tools/llama_cpp_python-$version.tar.gz" -C "$folder"
fi
# no TLS (it listens on this machine), no web pages (they would be fetched), nothing but the server
cmake -S "$source" -B "$folder/cmake" -G Ninja -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF \
    -DLLAMA_OPENSSL=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_BUILD_TESTS=OFF \
    -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF -DGGML_CCACHE=OFF >"$folder/cmake.log"
nice -n 19 cmake --build "$folder/cmake" --target llama-server -j "$jobs" >"$folder/build.log"
cp "$folder/cmake/bin/llama-server" "$folder/llama-server"
rm -rf "$folder/cmake" "$folder/llama_cpp_python-$version"
"$folder/llama-server" --version
