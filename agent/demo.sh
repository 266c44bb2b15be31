#!/bin/sh
# The main job on real input: observe the reference agent (a real llama.cpp model) while it searches a
# real local HTTP server that answers slowly. Writes out/demo/: the report, the agent's own account and
# the server's log of how long it held each request.
#
# usage: demo.sh [--simulated-gpu] [LATENCY_S [LOOPS]]
#
# --simulated-gpu: an NVIDIA GPU that is none, for a machine without one. NVML shows it through the real pynvml,
# and it computes when the model really does (tests/simulators/llama_gpu.c). The report says "simulated".
set -eu

gpu=
if [ "${1:-}" = --simulated-gpu ]; then
    gpu=yes
    shift
fi

latency=${1:-0.5}
loops=${2:-6}
here=$(cd "$(dirname "$0")/.." && pwd)
bin=$here/.venv/bin
out=$here/out/demo

if [ "$(id -u)" != 0 ]; then
    echo "demo: kernel probes need root" >&2
    echo "  run it with sudo: sudo make demo" >&2
    exit 3
fi
rm -rf "$out"
mkdir -p "$out"
"$bin/whyidle-search" --latency "$latency" --port-file "$out/port" --requests-log "$out/requests.jsonl" &
server=$!
trap 'kill "$server" 2>/dev/null; wait "$server" 2>/dev/null || true' EXIT INT TERM
tries=0
while [ ! -s "$out/port" ]; do
    tries=$((tries + 1))
    if [ "$tries" -gt 200 ] || ! kill -0 "$server" 2>/dev/null; then
        echo "demo: the search server did not start" >&2
        exit 1
    fi
    sleep 0.05
done
if [ -n "$gpu" ]; then
    echo "demo: the GPU of this run is simulated: it computes whenever the model does"
    set -- "$bin/python" "$here/tests/simulators/llama_gpu.py" "$out/gpus"
else
    set --
fi
"$@" "$bin/whyidle" run --json "$out/report.json" -- \
    "$bin/whyidle-agent" run --goal "find out why the GPU sits idle while an agent runs" \
    --search-url "http://127.0.0.1:$(cat "$out/port")" --loops "$loops" --seed 1 \
    --workdir "$out/work" --stats "$out/stats.json"
