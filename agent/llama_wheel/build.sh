#!/bin/sh
# Build the llama-cpp-python wheel once and keep it; a second run returns at once.
#
# usage: build.sh [PYTHON]     PYTHON needs pip; default /usr/bin/python3
#
# Prints the path of the wheel as the last line of standard output; progress goes to standard error.
# The wheel is in ${WHYIDLE_CACHE:-${XDG_CACHE_HOME:-~/.cache}/whyidle}/wheels. The version is the pin in
# pyproject.toml. PyPI has only the source, and a default build takes 12 minutes on two cores; with the
# options below it is 2.
set -eu

python=${1:-/usr/bin/python3}
here=$(cd "$(dirname "$0")" && pwd)
pyproject=$here/../../pyproject.toml

version=$(sed -n 's/^[[:space:]]*"llama-cpp-python==\([0-9][0-9A-Za-z.]*\)".*/\1/p' "$pyproject")
if [ -z "$version" ]; then
    echo "build.sh: no llama-cpp-python==VERSION in $pyproject" >&2
    echo "  pin it there: it is the one place that says which version to build" >&2
    exit 1
fi

wheels=${WHYIDLE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/whyidle}/wheels
log=$wheels/llama-cpp-python-$version.log

find_wheel() {
    for wheel in "$wheels"/llama_cpp_python-"$version"-*.whl; do
        if [ -f "$wheel" ]; then
            printf '%s\n' "$wheel"
            return 0
        fi
    done
    return 1
}

if find_wheel; then
    exit 0
fi
if ! "$python" -m pip --version >/dev/null 2>&1; then
    echo "build.sh: $python has no pip" >&2
    echo "  on Debian and Ubuntu: apt-get install python3-pip (or name another python: build.sh PYTHON)" >&2
    exit 1
fi
if ! mkdir -p "$wheels"; then
    echo "  set WHYIDLE_CACHE to a folder that can be written" >&2
    exit 1
fi

# One build at a time: a second one waits, and then finds the wheel of the first.
exec 9>"$wheels/.lock"
if command -v flock >/dev/null 2>&1; then
    if ! flock -n 9; then
        echo "build.sh: another build is running, waiting for it" >&2
        flock 9
    fi
    if find_wheel; then
        exit 0
    fi
fi

work=$(mktemp -d "$wheels/.build.XXXXXX") # on the same file system, so that the rename at the end is atomic
builder=
stop() {
    if [ -n "$builder" ]; then
        kill -TERM "-$builder" 2>/dev/null || kill -TERM "$builder" 2>/dev/null || true
    fi
    rm -rf "$work"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# GGML_NATIVE=OFF: the wheel also runs on another machine that shares the cache.
# GGML_OPENMP=OFF: no libgomp to install, and the engine's threads are llama.cpp's own.
# GGML_LLAMAFILE=OFF, LLAVA_BUILD=OFF: compile time for what the small model does not use.
CMAKE_ARGS="-DLLAVA_BUILD=OFF -DGGML_NATIVE=OFF -DGGML_OPENMP=OFF -DGGML_LLAMAFILE=OFF"
CMAKE_ARGS="$CMAKE_ARGS -DCMAKE_PROJECT_llama.cpp_INCLUDE=$here/no-common.cmake"
export CMAKE_ARGS

echo "building llama-cpp-python $version, about 2 minutes on 2 cores (log: $log)" >&2
started=$(date +%s)
# A process group of its own, so that an interrupted build stops its compilers too.
setsid "$python" -m pip wheel --no-deps --no-binary llama-cpp-python "llama-cpp-python==$version" \
    -w "$work" >"$log" 2>&1 </dev/null 9>&- &
builder=$!

if [ -t 2 ]; then every=10; else every=30; fi
next=$every
while kill -0 "$builder" 2>/dev/null; do
    sleep 1
    elapsed=$(($(date +%s) - started))
    if [ "$elapsed" -ge "$next" ]; then
        echo "  ... $elapsed s" >&2
        next=$((elapsed + every))
    fi
done
status=0
wait "$builder" || status=$?
builder=
if [ "$status" -ne 0 ]; then
    echo "build.sh: building llama-cpp-python $version failed; the end of $log:" >&2
    tail -n 20 "$log" | sed 's/^/  | /' >&2
    echo "  it needs a C++ compiler, and the network once: apt-get install build-essential, then try again" >&2
    exit 1
fi
for wheel in "$work"/llama_cpp_python-"$version"-*.whl; do
    if [ ! -f "$wheel" ]; then
        echo "build.sh: pip succeeded but left no wheel of version $version; see $log" >&2
        echo "  remove $log and try again with another PYTHON" >&2
        exit 1
    fi
    mv "$wheel" "$wheels/"
done
echo "built in $(($(date +%s) - started)) s" >&2
find_wheel
